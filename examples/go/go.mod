module penstock.dev/examples/go

go 1.22
