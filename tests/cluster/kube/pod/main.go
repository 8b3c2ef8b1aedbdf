// Command pod is what runs in the test cluster's containers: an HTTP server that says who answered what, and the pause container's
// process, which is also the first process of every machine of the lab.
//
// It is built and started by tests/cluster/kubelab; it is no part of what users install.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "pause":
			pause()
			return
		case "serve":
			serve(os.Args[2:])
			return
		case "forward":
			forward(os.Args[2:])
			return
		case "get":
			get(os.Args[2:])
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: pod pause | serve [-ports 8080,9090] [-delay 0s] | forward ADDRESS | get [-header 'K: V'] URL")
	os.Exit(2)
}

// pause waits to be ended, and meanwhile takes away the dead children that fall to the first process of a PID namespace.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	for {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		if received := <-signals; received != syscall.SIGCHLD {
			return
		}
	}
}

// answer is the body of every response of serve.
type answer struct {
	Pod     string              `json:"pod"`
	Node    string              `json:"node,omitempty"`
	Version string              `json:"version,omitempty"`
	Peer    string              `json:"peer"`
	Local   string              `json:"local"`
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Query   string              `json:"query,omitempty"`
	Proto   string              `json:"proto"`
	Host    string              `json:"host"`
	Headers map[string][]string `json:"headers"`
	Body    int64               `json:"body"`
	Request int64               `json:"request"`
}

// serve answers on several ports: every path with the JSON above, /slow?s=SECONDS late, /bytes?n=COUNT with so many bytes,
// /ready with 200 or, after PUT /ready?ok=false, with 503. SIGTERM ends it after what is under way, 10 s at the latest.
func serve(args []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	ports := flags.String("ports", "8080", "ports to listen on, separated by commas")
	delay := flags.Duration("delay", 0, "wait so long before listening")
	version := flags.String("version", os.Getenv("VERSION"), "said in every answer")
	_ = flags.Parse(args)
	name, _ := os.Hostname()
	if given := os.Getenv("POD_NAME"); given != "" {
		name = given
	}
	var count atomic.Int64
	var unready atomic.Bool
	handler := func(w http.ResponseWriter, r *http.Request) {
		number := count.Add(1)
		size, _ := io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/ready":
			if r.Method == http.MethodPut {
				unready.Store(r.URL.Query().Get("ok") == "false")
			}
			if unready.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		case "/slow":
			seconds, _ := strconv.ParseFloat(r.URL.Query().Get("s"), 64)
			select {
			case <-time.After(time.Duration(seconds * float64(time.Second))):
			case <-r.Context().Done():
				return
			}
		case "/bytes":
			count, _ := strconv.Atoi(r.URL.Query().Get("n"))
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", strconv.Itoa(count))
			for block := bytes.Repeat([]byte{'x'}, 65536); count > 0; count -= len(block) {
				if _, err := w.Write(block[:min(count, len(block))]); err != nil {
					return
				}
			}
			return
		}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		body, _ := json.Marshal(answer{
			Pod: name, Node: os.Getenv("NODE_NAME"), Version: *version, Peer: r.RemoteAddr, Local: local.String(),
			Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Proto: r.Proto, Host: r.Host,
			Headers: r.Header, Body: size, Request: number,
		})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
	}
	time.Sleep(*delay)
	var servers []*http.Server
	for _, port := range strings.Split(*ports, ",") {
		listener, err := net.Listen("tcp", ":"+strings.TrimSpace(port))
		if err != nil {
			log.Fatalf("port %s: %v", port, err)
		}
		server := &http.Server{Handler: http.HandlerFunc(handler)}
		servers = append(servers, server)
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Fatal(err)
			}
		}()
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	// As a well-behaved app in a rollout does: the endpoint is taken out everywhere before the port closes.
	grace, _ := time.ParseDuration(os.Getenv("TERMINATION_DELAY"))
	time.Sleep(grace)
	deadline, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, server := range servers {
		_ = server.Shutdown(deadline)
	}
}

// forward accepts on the listening socket that it was given as standard input and pipes every connection to ADDRESS. The socket may
// belong to another network namespace than the one forward runs in: so the tests' own namespace reaches the lab's API server.
func forward(args []string) {
	if len(args) != 1 {
		log.Fatal("usage: pod forward ADDRESS, with a listening socket as standard input")
	}
	listener, err := net.FileListener(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer client.Close()
			server, err := net.DialTimeout("tcp", args[0], 5*time.Second)
			if err != nil {
				return
			}
			defer server.Close()
			done := make(chan struct{})
			go pipe(client.(*net.TCPConn), server.(*net.TCPConn), done)
			go pipe(server.(*net.TCPConn), client.(*net.TCPConn), done)
			<-done
			<-done
		}()
	}
}

// pipe copies until the source's end, hands that end on, and tells done.
func pipe(source, sink *net.TCPConn, done chan<- struct{}) {
	if _, err := io.Copy(sink, source); err != nil {
		_ = source.SetLinger(0)
		_ = source.Close()
	}
	_ = sink.CloseWrite()
	done <- struct{}{}
}

// get writes the body of one GET to standard output and its status to standard error: for images that hold nothing else.
func get(args []string) {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	header := flags.String("header", "", "one header line to send, 'Name: value'")
	_ = flags.Parse(args)
	request, err := http.NewRequest(http.MethodGet, flags.Arg(0), nil)
	if err != nil {
		log.Fatal(err)
	}
	if key, value, found := strings.Cut(*header, ":"); found {
		request.Header.Set(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	response, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(os.Stdout, response.Body)
	fmt.Fprintln(os.Stderr, response.Status)
	if response.StatusCode >= 400 {
		os.Exit(1)
	}
}
