module gluetun-gateway/examples

go 1.21
