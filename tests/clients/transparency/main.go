// The Go transparency-log libraries' check of proofs and checkpoints: one JSON object a line on standard input,
// one verdict a line back.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

type told struct {
	Key        string   `json:"verifier_key"`
	Checkpoint string   `json:"checkpoint"`
	Size       uint64   `json:"tree_size"`
	Root       string   `json:"root"`
	Path       []string `json:"path"`
	Seq        uint64   `json:"seq"`
	Entry      *string  `json:"entry"`
	OlderSize  uint64   `json:"older_size"`
	OlderRoot  string   `json:"older_root"`
}

func unhex(text string) []byte {
	found, err := hex.DecodeString(text)
	if err != nil {
		return nil
	}
	return found
}

func check(t told) error {
	verifier, err := note.NewVerifier(t.Key)
	if err != nil {
		return err
	}
	opened, err := note.Open([]byte(t.Checkpoint), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[1] != fmt.Sprint(t.Size) || lines[2] != base64.StdEncoding.EncodeToString(unhex(t.Root)) {
		return fmt.Errorf("the checkpoint is of another tree")
	}
	path := make([][]byte, len(t.Path))
	for i, node := range t.Path {
		path[i] = unhex(node)
	}
	if t.Entry != nil {
		leaf := rfc6962.DefaultHasher.HashLeaf([]byte(*t.Entry))
		return proof.VerifyInclusion(rfc6962.DefaultHasher, t.Seq, t.Size, leaf, path, unhex(t.Root))
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, t.OlderSize, t.Size, path, unhex(t.OlderRoot), unhex(t.Root))
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<24)
	for lines.Scan() {
		var t told
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil {
			fmt.Println("unreadable")
		} else if err := check(t); err != nil {
			fmt.Println("refused")
		} else {
			fmt.Println("verified")
		}
	}
}
