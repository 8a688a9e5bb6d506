// gopher: the poller that a good Go engineer writes by hand. net/http, franz-go, idempotent, a goroutine a session.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	base     = flag.String("base", "", "address of the service")
	brokers  = flag.String("brokers", "", "HOST:PORT of Kafka")
	topic    = flag.String("topic", "", "where changed answers go")
	sessions = flag.Int("sessions", 1000, "how many agents")
	interval = flag.Duration("interval", time.Second, "between two polls of a session; 0: as fast as it goes")
	slot     = flag.Duration("slot", 0, "sessions' tickers start at multiples of this; 0: anywhere")
)

type session struct {
	sid, body string
	auth      []string
	before    []byte
	http      *http.Client
	kafka     *kgo.Client
}

// poll publishes the answer if it differs from the one before.
func (s *session) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "POST", *base+"/api/v1alpha1/asm/asmapi/getstatus", strings.NewReader(s.body))
	if err != nil {
		return err
	}
	request.Header["Authorization"] = s.auth
	request.Header["Content-Type"] = []string{"application/json"}
	answer, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	if bytes.Equal(body, s.before) {
		return nil
	}
	s.before = body
	record := &kgo.Record{Topic: *topic, Key: []byte(s.sid), Value: body}
	s.kafka.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
		if err != nil {
			log.Printf("produce %s: %v", s.sid, err)
		}
	})
	return nil
}

func (s *session) try(ctx context.Context) {
	if err := s.poll(ctx); err != nil && ctx.Err() == nil {
		log.Printf("session %s: %v", s.sid, err)
	}
}

func (s *session) run(ctx context.Context) {
	if *interval <= 0 {
		for ctx.Err() == nil {
			s.try(ctx)
		}
		return
	}
	wait := time.Duration(rand.Int63n(int64(*interval)))
	if *slot > 0 {
		wait = time.Until(time.Now().Add(wait + *slot).Truncate(*slot))
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	for {
		s.try(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	kafka, err := kgo.NewClient(kgo.SeedBrokers(*brokers), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: *sessions + 1, IdleConnTimeout: 90 * time.Second, DisableCompression: true}
	client := &http.Client{Transport: transport}
	var running sync.WaitGroup
	for number := range *sessions {
		sid := strconv.Itoa(1000000 + number)
		s := &session{sid: sid, auth: []string{"Bearer tok-" + strconv.Itoa(number)}, http: client, kafka: kafka,
			body: `{"asm_session_sid":"` + sid + `","perform_get_queued_calls":true,"perform_get_message":true,"minimum_message_timestamp":"0","skills":[],"events":[]}`}
		running.Go(func() { s.run(ctx) })
	}
	running.Wait()
	flushed, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	kafka.Flush(flushed)
	kafka.Close()
}
