module gluetun-gateway/clients

go 1.26
