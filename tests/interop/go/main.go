// A member of a consumer group, with franz-go. Its protocol is that of
// tests/interop/group_server.py.
//
//	member BOOTSTRAP TOPIC GROUP SESSION_MS HEARTBEAT_MS
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// member knows what it has and what it read. The client calls back from goroutines of its own.
type member struct {
	sync.Mutex
	client *kgo.Client
	topic  string
	has    map[int32]bool
	last   map[int32]*kgo.Record
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("five arguments are needed, not %d", len(args))
	}
	m := &member{topic: args[1], has: map[int32]bool{}, last: map[int32]*kgo.Record{}}
	session, err := milliseconds(args[3])
	if err != nil {
		return err
	}
	heartbeat, err := milliseconds(args[4])
	if err != nil {
		return err
	}
	m.client, err = kgo.NewClient(
		kgo.SeedBrokers(args[0]),
		kgo.ConsumeTopics(m.topic),
		kgo.ConsumerGroup(args[2]),
		kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(heartbeat),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		// The default assignor is cooperative: both calls tell of changes only.
		kgo.OnPartitionsAssigned(m.gained),
		kgo.OnPartitionsRevoked(m.lost),
		kgo.OnPartitionsLost(m.lost),
	)
	if err != nil {
		return err
	}
	defer m.client.Close()
	go m.read()
	return m.obey()
}

func milliseconds(text string) (time.Duration, error) {
	number, err := strconv.Atoi(text)
	return time.Duration(number) * time.Millisecond, err
}

func (m *member) read() {
	for {
		fetches := m.client.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		m.Lock()
		fetches.EachRecord(func(record *kgo.Record) {
			m.last[record.Partition] = record
			tell(map[string]any{
				"name": "record", "partition": record.Partition, "offset": record.Offset,
			})
		})
		m.Unlock()
	}
}

func (m *member) obey() error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "commit":
			if err := m.commit(); err != nil {
				return err
			}
		case "leave":
			return nil // Closing the client leaves the group.
		default:
			return fmt.Errorf("no such command: %s", lines.Text())
		}
	}
	return lines.Err()
}

func (m *member) commit() error {
	m.Lock()
	var records []*kgo.Record
	for _, record := range m.last {
		records = append(records, record)
	}
	m.Unlock()
	if err := m.client.CommitRecords(context.Background(), records...); err != nil {
		return err
	}
	m.Lock()
	defer m.Unlock()
	tell(map[string]any{"name": "committed"})
	return nil
}

func (m *member) gained(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.Lock()
	defer m.Unlock()
	for _, partition := range partitions[m.topic] {
		m.has[partition] = true
	}
	m.tellAssigned()
}

func (m *member) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.Lock()
	defer m.Unlock()
	for _, partition := range partitions[m.topic] {
		delete(m.has, partition)
		delete(m.last, partition)
	}
	m.tellAssigned()
}

func (m *member) tellAssigned() {
	partitions := []int32{}
	for partition := range m.has {
		partitions = append(partitions, partition)
	}
	tell(map[string]any{"name": "assigned", "partitions": partitions})
}

// tell prints an event; the caller holds the lock, so that lines do not mix.
func tell(event map[string]any) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
