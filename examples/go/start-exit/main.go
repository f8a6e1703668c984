// Starts an exit through the admin port, fetches a page through it, and destroys it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// A started exit: what this program needs of the answer.
type exit struct {
	ID         string `json:"id"`
	PodName    string `json:"pod_name"`
	ServiceURL string `json:"service_url"`
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// The admin port is in the cluster: never through a proxy that the environment names. A cold start is
// held until the VPN is up: allow for it.
var admin = &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 100 * time.Second}

// call posts JSON to the admin port and reads the answer.
func call(path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	address := strings.TrimSuffix(env("GLUETUN_K8S_API_URL", "http://127.0.0.1:8001"), "/") + path
	request, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if token := os.Getenv("ADMIN_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := admin.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var failure struct {
			Error string `json:"error"`
		}
		if err := json.NewDecoder(response.Body).Decode(&failure); err != nil {
			return fmt.Errorf("%s: %s", path, response.Status)
		}
		return fmt.Errorf("%s: %s: %s", path, response.Status, failure.Error)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// fetch gets a page through a proxy whose URL holds its credentials.
func fetch(proxy, target string) (string, error) {
	address, err := url.Parse(proxy)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(address)}, Timeout: 30 * time.Second}
	response, err := client.Get(target)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", target, response.Status, text)
	}
	return strings.TrimSpace(string(text)), err
}

func run() (err error) {
	var started exit
	if err := call("/start", map[string]string{"country": env("COUNTRY", "Sweden")}, &started); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "started", started.PodName)
	defer func() {
		var ended struct {
			Message string `json:"message"`
		}
		if failed := call("/destroy", map[string]string{"id": started.ID}, &ended); failed != nil {
			if err == nil {
				err = failed
			}
			return
		}
		fmt.Fprintln(os.Stderr, ended.Message)
	}()
	text, err := fetch(started.ServiceURL, env("TARGET_URL", "http://whoami.test/"))
	if err != nil {
		return err
	}
	fmt.Println(text)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
