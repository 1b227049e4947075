package penstock

import "slices"

// Carrier reads and writes the headers of a message or a record as text. It has the
// methods of OpenTelemetry's propagation.TextMapCarrier, so that a trace continues from the
// producer into the handler, and from the handler into the records that it produces.
type Carrier struct{ headers *[]Header }

// Carrier returns the message's headers for a propagator's Extract.
func (m *Message) Carrier() Carrier { return Carrier{&m.Headers} }

// Carrier returns the record's headers for a propagator's Inject.
func (r *Record) Carrier() Carrier { return Carrier{&r.Headers} }

// Get returns the value of the last header of a name; empty if there is none.
func (c Carrier) Get(key string) string {
	for _, header := range slices.Backward(*c.headers) {
		if header.Name == key {
			return string(header.Value)
		}
	}
	return ""
}

// Set replaces the headers of a name by one.
func (c Carrier) Set(key, value string) {
	others := slices.DeleteFunc(slices.Clone(*c.headers), func(header Header) bool { return header.Name == key })
	*c.headers = append(others, Header{Name: key, Value: []byte(value)})
}

// Keys returns the names, each once.
func (c Carrier) Keys() []string {
	var names []string
	for _, header := range *c.headers {
		if !slices.Contains(names, header.Name) {
			names = append(names, header.Name)
		}
	}
	return names
}
