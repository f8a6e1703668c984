// Go's net/http: one GET for each argument, with one client.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// What a client tells of one request.
type report struct {
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	Error  string `json:"error,omitempty"`
	Code   string `json:"code,omitempty"`
}

// docs: begin

// refused is the gateway's answer to a CONNECT that it has not opened.
type refused struct{ status, code string }

func (r *refused) Error() string { return r.status + ": " + r.code }

func client(proxy *url.URL, roots *x509.CertPool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots} // only for an authority of one's own
	if proxy != nil {
		transport.Proxy = http.ProxyURL(proxy)
	}
	// Without it all that is told of a refused CONNECT is its status text, such as "Bad Request".
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode != http.StatusOK {
			return &refused{answer.Status, answer.Header.Get("X-Gateway-Error")}
		}
		return nil
	}
	return &http.Client{Transport: transport, Timeout: 120 * time.Second}
}

// docs: end

func get(client *http.Client, address string) report {
	response, err := client.Get(address)
	if err != nil {
		told := report{Error: err.Error()}
		var refusal *refused
		if errors.As(err, &refusal) {
			told.Code = refusal.code
		}
		return told
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return report{Error: err.Error()}
	}
	return report{Status: response.StatusCode, Body: string(body)}
}

func run() error {
	ca, err := os.ReadFile(os.Getenv("CLIENT_CA"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s has no certificate", os.Getenv("CLIENT_CA"))
	}
	var proxy *url.URL
	if text := os.Getenv("CLIENT_PROXY"); text != "" {
		if proxy, err = url.Parse(text); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	client := client(proxy, roots)
	for _, address := range os.Args[1:] {
		if err := out.Encode(get(client, address)); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
