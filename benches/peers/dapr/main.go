// Dapr's sidecar with the one component that is measured, and the resolver that it
// does not start without: daprd itself registers a hundred more.
package main

import (
	"github.com/dapr/components-contrib/nameresolution/mdns"
	"github.com/dapr/components-contrib/pubsub/kafka"
	"github.com/dapr/dapr/cmd/daprd/app"
	"github.com/dapr/dapr/pkg/components/nameresolution"
	"github.com/dapr/dapr/pkg/components/pubsub"
)

func main() {
	nameresolution.DefaultRegistry.RegisterComponent(mdns.NewResolver, "mdns")
	pubsub.DefaultRegistry.RegisterComponent(kafka.NewKafka, "kafka")
	app.Run()
}
