// The shop's nightly report: asks the web service whether it answers and prints one JSON line.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"
)

func main() {
	url := os.Getenv("WEB_URL")
	if url == "" {
		url = "http://web/healthz"
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	defer response.Body.Close()
	line, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"url":          url,
		"status":       response.StatusCode,
	})
	fmt.Println(string(line))
}
