// Drives a conflist through libcni, the library inside every runtime: add, check, del, as a runtime would.
//
// usage: libcni CONFLIST NETNS CONTAINER-ID CNI-PATH
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "libcni:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 5 {
		return fmt.Errorf("usage: libcni CONFLIST NETNS CONTAINER-ID CNI-PATH")
	}
	list, err := libcni.ConfListFromFile(os.Args[1])
	if err != nil {
		return err
	}
	cache, err := os.MkdirTemp("", "libcni-cache")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)

	ctx := context.Background()
	cni := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Args[4]), cache, nil)
	attachment := &libcni.RuntimeConf{ContainerID: os.Args[3], NetNS: os.Args[2], IfName: "eth0"}

	if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	result, err := cni.AddNetworkList(ctx, list, attachment)
	if err != nil {
		return fmt.Errorf("add: %w", err)
	}
	if version := result.Version(); version != list.CNIVersion {
		return fmt.Errorf("add: the result is of version %s, the config of %s", version, list.CNIVersion)
	}
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Println("add:", string(text))

	// CHECK came with 0.4.0.
	if list.CNIVersion != "0.3.1" {
		if err := cni.CheckNetworkList(ctx, list, attachment); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		fmt.Println("check: ok")
	}
	// Runtimes repeat a DEL.
	for i := 0; i < 2; i++ {
		if err := cni.DelNetworkList(ctx, list, attachment); err != nil {
			return fmt.Errorf("del: %w", err)
		}
	}
	fmt.Println("del: ok, twice")
	return nil
}
