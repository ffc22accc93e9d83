// Drives a conflist through the newest libcni, the library inside every runtime, as a runtime of today does:
// attachments at once, results from the cache, STATUS, and GC with the attachments that live.
//
// usage: libcni CONFLIST CNI-PATH CACHE-DIR NETNS...
//
// Every namespace gets one attachment, all of them at the same time. Of N attachments, GC is told of the first N/2.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "libcni:", err)
		os.Exit(1)
	}
}

// runtime is one network, as its runtime knows it.
type runtime struct {
	cni         *libcni.CNIConfig
	list        *libcni.NetworkConfigList
	cache       string
	attachments []*libcni.RuntimeConf
}

func run() error {
	if len(os.Args) < 6 {
		return errors.New("usage: libcni CONFLIST CNI-PATH CACHE-DIR NETNS NETNS...")
	}
	list, err := libcni.NetworkConfFromFile(os.Args[1])
	if err != nil {
		return err
	}
	node := runtime{
		cni:   libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Args[2]), os.Args[3], nil),
		list:  list,
		cache: os.Args[3],
	}
	for i, netns := range os.Args[4:] {
		node.attachments = append(node.attachments, &libcni.RuntimeConf{
			ContainerID: fmt.Sprintf("container%d", i),
			NetNS:       netns,
			IfName:      "eth0",
			CapabilityArgs: map[string]interface{}{
				"portMappings": []map[string]interface{}{
					{"hostPort": 9000 + i, "containerPort": 80, "protocol": "tcp"},
				},
			},
		})
	}

	ctx := context.Background()
	if _, err := node.cni.ValidateNetworkList(ctx, list); err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"status", node.status},
		{"add", node.add},
		{"cached results", node.cached},
		{"check", node.check},
		{"gc", node.gc},
		{"check after gc", node.checkLiving},
		{"del", node.del},
		{"del, repeated", node.del},
		{"gc of none", node.gcAll},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%s: ok\n", step.name)
	}
	return node.cacheIsEmpty()
}

// all does something to every one of these attachments at the same time.
func all(these []*libcni.RuntimeConf, do func(*libcni.RuntimeConf) error) error {
	failures := make([]error, len(these))
	var wait sync.WaitGroup
	for i, attachment := range these {
		wait.Add(1)
		go func() {
			defer wait.Done()
			if err := do(attachment); err != nil {
				failures[i] = fmt.Errorf("%s: %w", attachment.ContainerID, err)
			}
		}()
	}
	wait.Wait()
	return errors.Join(failures...)
}

func (node *runtime) living() []*libcni.RuntimeConf {
	return node.attachments[:len(node.attachments)/2]
}

func (node *runtime) status(ctx context.Context) error {
	return node.cni.GetStatusNetworkList(ctx, node.list)
}

func (node *runtime) add(ctx context.Context) error {
	var lock sync.Mutex
	holders := map[string]string{}
	return all(node.attachments, func(attachment *libcni.RuntimeConf) error {
		added, err := node.cni.AddNetworkList(ctx, node.list, attachment)
		if err != nil {
			return err
		}
		if added.Version() != node.list.CNIVersion {
			return fmt.Errorf("the result is of version %s, the config of %s", added.Version(), node.list.CNIVersion)
		}
		result, err := current.NewResultFromResult(added)
		if err != nil {
			return err
		}
		lock.Lock()
		defer lock.Unlock()
		for _, ip := range result.IPs {
			address := ip.Address.IP.String()
			if other, taken := holders[address]; taken {
				return fmt.Errorf("%s is the address of %s, too", address, other)
			}
			holders[address] = attachment.ContainerID
		}
		if len(result.IPs) == 0 {
			return errors.New("the result has no address")
		}
		return nil
	})
}

// cached looks that the cache gives back what a second ADD would be told.
func (node *runtime) cached(context.Context) error {
	return all(node.attachments, func(attachment *libcni.RuntimeConf) error {
		result, err := node.cni.GetNetworkListCachedResult(node.list, attachment)
		if err != nil {
			return err
		}
		if result == nil {
			return errors.New("no cached result")
		}
		if _, err := json.Marshal(result); err != nil {
			return err
		}
		known, err := node.cni.GetCachedAttachments(attachment.ContainerID)
		if err != nil {
			return err
		}
		if len(known) != 1 || known[0].NetNS != attachment.NetNS {
			return fmt.Errorf("the cache knows %d attachments", len(known))
		}
		return nil
	})
}

func (node *runtime) check(ctx context.Context) error {
	return all(node.attachments, func(attachment *libcni.RuntimeConf) error {
		return node.cni.CheckNetworkList(ctx, node.list, attachment)
	})
}

func (node *runtime) checkLiving(ctx context.Context) error {
	living := node.living()
	for _, attachment := range node.attachments[len(living):] {
		if err := node.cni.CheckNetworkList(ctx, node.list, attachment); err == nil {
			return fmt.Errorf("%s passes, though GC was not told of it", attachment.ContainerID)
		}
	}
	return all(living, func(attachment *libcni.RuntimeConf) error {
		return node.cni.CheckNetworkList(ctx, node.list, attachment)
	})
}

// gc tells of those that live. libcni deletes the others by its cache, and then each plugin collects. Half of the
// others lose their cache entries before, as after a crash: those the plugins have to find.
func (node *runtime) gc(ctx context.Context) error {
	living := node.living()
	for i, attachment := range node.attachments[len(living):] {
		if i%2 == 0 {
			continue
		}
		name := fmt.Sprintf("%s-%s-%s", node.list.Name, attachment.ContainerID, attachment.IfName)
		if err := os.Remove(filepath.Join(node.cache, "results", name)); err != nil {
			return err
		}
	}
	return node.collect(ctx, living)
}

func (node *runtime) gcAll(ctx context.Context) error {
	return node.collect(ctx, nil)
}

func (node *runtime) collect(ctx context.Context, living []*libcni.RuntimeConf) error {
	valid := []types.GCAttachment{}
	for _, attachment := range living {
		valid = append(valid, types.GCAttachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName})
	}
	return node.cni.GCNetworkList(ctx, node.list, &libcni.GCArgs{ValidAttachments: valid})
}

func (node *runtime) del(ctx context.Context) error {
	return all(node.attachments, func(attachment *libcni.RuntimeConf) error {
		return node.cni.DelNetworkList(ctx, node.list, attachment)
	})
}

func (node *runtime) cacheIsEmpty() error {
	entries, err := os.ReadDir(filepath.Join(node.cache, "results"))
	if err != nil {
		return err
	}
	if len(entries) != 0 {
		return fmt.Errorf("the cache has %d entries", len(entries))
	}
	return nil
}
