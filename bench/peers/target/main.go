// target: bridge/bench/target.py over TLS, with HTTP/2. The same answers; the same figures at -listen's /stats.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	random "math/rand"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	listen  = flag.String("listen", "", "HOST:PORT of /stats, plain")
	secure  = flag.String("tls", "", "HOST:PORT of the service")
	ca      = flag.String("ca", "", "file to write the certificate to trust to")
	change  = flag.Float64("change", 0.05, "chance that a poll finds the agent changed")
	latency = flag.Float64("latency", 0.02, "seconds that an answer takes")
)

const call = `{"callSid":"%d","phoneNumber":"+15555550%03d","callerId":"+1555556%04d","callType":"INBOUND","startDate":"2026-01-01T00:00:00Z","holdDate":null,"skills":["english"],"agentSpecific":false,"queuedNotificationType":"QUEUED_NOTIFICATION_TYPE_AGENT"}`
const status = `{"voiceStatus":{"status":"%d","statusDesc":"%s","paused":false,"queue":"main","currentSessionId":"%d","lastStatusChange":"%d","monitoring":false,"callsCount":"%d","lastSipCode":"200","agentPeerIsLostCall":false,"disabled":false,"keepAliveSucceeded":false,"message":"","messageTimestamp":"0","queuedCalls":{"agentQueueCalls":[%s,%s],"onHoldCalls":[],"hqmCalls":[]},"callerWasSuspended":false,"transferMembers":[],"alert":null,"agentPeerIsDirectToAgent":false,"agentIsMuted":false}}`

type agent struct {
	answer  []byte
	last    time.Time
	version int
	window  int
}

type service struct {
	mu          sync.Mutex
	agents      map[int]*agent
	window      int
	begin       time.Time
	cpu         float64
	polls       int
	changes     int
	seen        int
	gaps        []float64
	connections int
}

func render(number, version int) []byte {
	queued := func(i int) string {
		return fmt.Sprintf(call, 5000000+number*2+i, (number+i)%1000, (number+i)%1000)
	}
	desc := [3]string{"READY", "TALKING", "WRAPUP"}[version%3]
	return fmt.Appendf(nil, status, 3+version%3, desc, 9000000+number, 1626791817289+version*1000, 12+version, queued(0), queued(1))
}

func (s *service) poll(number int) []byte {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[number]
	if a == nil {
		a = &agent{}
		s.agents[number] = a
	}
	s.polls++
	if !a.last.IsZero() {
		s.gaps = append(s.gaps, now.Sub(a.last).Seconds())
	}
	a.last = now
	if a.window != s.window {
		a.window = s.window
		s.seen++
	}
	if changed := random.Float64() < *change; changed || a.answer == nil {
		a.version++
		s.changes++
		a.answer = render(number, a.version)
	}
	return a.answer
}

func (s *service) getstatus(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	number, err := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer tok-"))
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer := s.poll(number)
	time.Sleep(time.Duration(*latency * float64(time.Second)))
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Write(answer)
}

func used() float64 {
	var u syscall.Rusage
	syscall.Getrusage(0, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func spread(values []float64) map[string]any {
	slices.Sort(values)
	at := func(share float64) any {
		if len(values) == 0 {
			return nil
		}
		return values[int(share*float64(len(values)-1)+0.5)]
	}
	return map[string]any{"count": len(values), "p50": at(0.5), "p99": at(0.99), "max": at(1)}
}

// silences are gaps that have not ended and are longer than any that has: a client that stalls must not look punctual.
func (s *service) silences() []float64 {
	longest, found := 0.0, []float64{}
	for _, gap := range s.gaps {
		longest = max(longest, gap)
	}
	for _, a := range s.agents {
		if silence := time.Since(a.last).Seconds(); silence > longest {
			found = append(found, silence)
		}
	}
	return found
}

func (s *service) stats(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{
		"window_s": time.Since(s.begin).Seconds(), "polls": s.polls, "changes": s.changes, "sessions_seen": s.seen,
		"connections": s.connections, "cpu_s": used() - s.cpu, "gap": spread(append(s.silences(), s.gaps...)), "inject": spread(nil),
	})
	if r.URL.Query().Has("reset") {
		s.window++
		s.begin, s.cpu = time.Now(), used()
		s.polls, s.changes, s.seen, s.gaps = 0, 0, 0, nil
	}
}

func (s *service) connected(_ net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.connections++
	case http.StateClosed:
		s.connections--
	}
}

func check[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// certificate is for 127.0.0.1; the PEM of the authority that signed it is written to -ca.
func certificate() tls.Certificate {
	issuer := check(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	key := check(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	root := check(x509.CreateCertificate(rand.Reader, authority, authority, &issuer.PublicKey, issuer))
	// Not one for both: rustls takes no authority's certificate for a server's.
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: authority.NotBefore,
		NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der := check(x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, issuer))
	if err := os.WriteFile(*ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o644); err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	flag.Parse()
	s := &service{agents: map[int]*agent{}, window: 1, begin: time.Now()}
	polls := http.NewServeMux()
	polls.HandleFunc("/api/v1alpha1/asm/asmapi/getstatus", s.getstatus)
	server := &http.Server{Addr: *secure, Handler: polls, ConnState: s.connected, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate()}},
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000}}
	go func() { log.Fatal(server.ListenAndServeTLS("", "")) }()
	looks := http.NewServeMux()
	looks.HandleFunc("/stats", s.stats)
	log.Fatal(http.ListenAndServe(*listen, looks))
}
