// Codes windows in memory with klauspost/reedsolomon on one core, for as long as it is told to, and
// prints one JSON line. The Python programs beside it do the same with other libraries.
//
//	coding OPERATION K M BYTES SECONDS      OPERATION is encode or rebuild; BYTES are of one chunk
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/klauspost/reedsolomon"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	fail(err)
	return value
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	fail(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func main() {
	if len(os.Args) != 6 {
		fail(fmt.Errorf("usage: coding OPERATION K M BYTES SECONDS"))
	}
	operation, k, m, size := os.Args[1], number(os.Args[2]), number(os.Args[3]), number(os.Args[4])
	seconds, err := strconv.ParseFloat(os.Args[5], 64)
	fail(err)
	runtime.GOMAXPROCS(1)
	codec, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1))
	fail(err)
	chunks := make([][]byte, k+m)
	for index := range chunks {
		chunks[index] = make([]byte, size)
		rand.New(rand.NewSource(int64(index))).Read(chunks[index])
	}
	original := make([][]byte, k)
	for index := range original {
		original[index] = append([]byte(nil), chunks[index]...)
	}
	fail(codec.Encode(chunks))
	once := func() { fail(codec.Encode(chunks)) }
	if operation == "rebuild" {
		lost := min(m, k)
		once = func() {
			for index := 0; index < lost; index++ {
				chunks[index] = chunks[index][:0] // its memory is kept, and filled again
			}
			fail(codec.ReconstructData(chunks))
		}
	}
	once()
	for index := range original {
		if !bytes.Equal(chunks[index], original[index]) {
			fail(fmt.Errorf("chunk %d is not what it was", index))
		}
	}
	requests, used := 0, cpuSeconds()
	begin := time.Now()
	for time.Since(begin).Seconds() < seconds {
		once()
		requests++
	}
	fail(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests": requests, "seconds": time.Since(begin).Seconds(), "cpu_s": cpuSeconds() - used,
	}))
}
