// Fetches a page through the gateway's proxy port. The username says where from.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func run() error {
	proxy, err := url.Parse(env("PROXY_URL", "http://demo-country-se:demo@127.0.0.1:8080"))
	if err != nil {
		return err
	}
	// The first request to a place waits for its VPN, up to 90 s by the gateway's defaults.
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, Timeout: 100 * time.Second}
	response, err := client.Get(env("TARGET_URL", "http://whoami.test/"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		// What the gateway says, rather than the site, it marks by a code.
		return fmt.Errorf("%s %s: %s", response.Status, response.Header.Get("X-Gateway-Error"), text)
	}
	fmt.Println(strings.TrimSpace(string(text)))
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
