// What a network plugin does about NetworkPolicies: in each pod's own network namespace stands who may reach it, as a table of nftables.
//
// It knows the way in, selectors, and ports by number; at anything else it ends, so that nobody takes a policy for held of which only half is.
//
//	policies KUBECONFIG RESULTS
//
// RESULTS is how the files begin in which the CNI library writes down which pod has got which address in which namespace. So a pod is let in by its
// peers, and kept from strangers, before its first program runs; the API server is told its address only then. Pods in host network have no such
// file: they are kept from nobody, and let in nowhere by what selects them.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// How often it is looked whether there are other results.
const every = 50 * time.Millisecond

// A result: the network of a pod.
type network struct {
	Space  string      `json:"netns"`
	Of     [][2]string `json:"cniArgs"`
	Result struct {
		IPs []struct{ Address, Gateway string } `json:"ips"`
	} `json:"result"`
}

type enforcer struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   networkinglisters.NetworkPolicyLister
	results    string
	// The files that were read last, and what they say, by the pods' uids.
	files    []string
	networks map[string]network
	// Tables by network namespace, as they were set last.
	tables map[string]string
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("give KUBECONFIG and RESULTS (such as /var/lib/cni/results/e2e-)")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	core, policies := factory.Core().V1(), factory.Networking().V1().NetworkPolicies()
	e := enforcer{
		pods:       core.Pods().Lister(),
		namespaces: core.Namespaces().Lister(),
		policies:   policies.Lister(),
		results:    os.Args[2],
		tables:     map[string]string{},
	}
	// One that is not taken yet stands for all that come meanwhile.
	changes := make(chan struct{}, 1)
	tell := func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedInformer{core.Pods().Informer(), core.Namespaces().Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { tell() },
			UpdateFunc: func(any, any) { tell() },
			DeleteFunc: func(any) { tell() },
		}); err != nil {
			log.Fatal(err)
		}
	}
	factory.Start(nil)
	factory.WaitForCacheSync(nil)
	ticks := time.Tick(every)
	for {
		select {
		case <-changes:
			e.read()
			e.enforce()
		case <-ticks:
			if e.read() {
				e.enforce()
			}
		}
	}
}

// read reads the results, if there are others than before. One that is just being written is read again the next time.
func (e *enforcer) read() bool {
	files, err := filepath.Glob(e.results + "*")
	if err != nil {
		log.Fatal(err)
	}
	if slices.Equal(files, e.files) {
		return false
	}
	e.files, e.networks = files, map[string]network{}
	for _, file := range files {
		var of network
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &of)
		}
		if err != nil {
			e.files = nil
			continue
		}
		for _, argument := range of.Of {
			// Of a pod that was killed the file may have stayed.
			if _, err := os.Stat(of.Space); err == nil && argument[0] == "K8S_POD_UID" {
				e.networks[argument[1]] = of
			}
		}
	}
	return true
}

func (e *enforcer) enforce() {
	pods, noPods := e.pods.List(labels.Everything())
	policies, noPolicies := e.policies.List(labels.Everything())
	if err := errors.Join(noPods, noPolicies); err != nil {
		log.Fatal(err)
	}
	for _, policy := range policies {
		if err := understood(policy); err != nil {
			log.Fatalf("from now on no policy is enforced, because of NetworkPolicy %s/%s: %v", policy.Namespace, policy.Name, err)
		}
	}
	for _, pod := range pods {
		network, has := e.networks[string(pod.UID)]
		if !has {
			continue
		}
		table := e.table(pod, network, pods, policies)
		if e.tables[network.Space] == table {
			continue
		}
		nft := exec.Command("nsenter", "--net="+network.Space, "nft", "-f", "-")
		// One transaction: no packet meets half a table.
		nft.Stdin = strings.NewReader("table ip policies\ndelete table ip policies\n" + table)
		if out, err := nft.CombinedOutput(); err != nil {
			log.Printf("%s/%s: %v: %s", pod.Namespace, pod.Name, err, out)
			e.files = nil
			continue
		}
		log.Printf("%s/%s has now\n%s", pod.Namespace, pod.Name, table)
		e.tables[network.Space] = table
	}
}

// understood says what of a policy cannot be enforced.
func understood(policy *networkingv1.NetworkPolicy) error {
	if slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
		return errors.New("it is about the way out")
	}
	for _, rule := range policy.Spec.Ingress {
		for _, peer := range rule.From {
			if peer.IPBlock != nil {
				return errors.New("it has an ipBlock")
			}
		}
		for _, port := range rule.Ports {
			if port.Port == nil || port.Port.Type != intstr.Int || port.EndPort != nil {
				return errors.New("it has a port that is not one number")
			}
		}
	}
	return nil
}

// table says who may reach a pod: everybody, if no policy selects it. It has one even then, because connection tracking begins with it, which
// knows an answer over UDP only if it has seen the question. TCP does not need that: what asks for no connection belongs to one that was let in.
func (e *enforcer) table(pod *corev1.Pod, network network, pods []*corev1.Pod, policies []*networkingv1.NetworkPolicy) string {
	verdict := "accept"
	var rules []string
	for _, policy := range policies {
		if policy.Namespace == pod.Namespace && selects(&policy.Spec.PodSelector, pod.Labels) {
			verdict = "drop"
			for _, rule := range policy.Spec.Ingress {
				rules = append(rules, e.rules(policy.Namespace, &rule, pods)...)
			}
		}
	}
	// Caches list in any order.
	slices.Sort(rules)
	// The pod's node is never kept out: its kubelet probes.
	node := []string{}
	for _, ip := range network.Result.IPs {
		node = append(node, ip.Gateway)
	}
	if pod.Status.HostIP != "" {
		node = append(node, pod.Status.HostIP)
	}
	lines := append([]string{
		"type filter hook input priority filter; policy " + verdict,
		`iifname "lo" accept`,
		from(node) + "accept",
		"tcp flags & (fin | syn | rst | ack) != syn accept",
		"ct state established,related accept",
	}, slices.Compact(rules)...)
	return "table ip policies {\n\tchain input {\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}\n}\n"
}

// rules are what lets in whom a rule of a policy in that namespace lets in.
func (e *enforcer) rules(namespace string, rule *networkingv1.NetworkPolicyIngressRule, pods []*corev1.Pod) []string {
	source := ""
	if len(rule.From) > 0 {
		var addresses []string
		for _, pod := range pods {
			// A pod that is told to end is a peer for as long as it is there: it has calls to hand over.
			isPeer := func(peer networkingv1.NetworkPolicyPeer) bool { return e.isPeer(pod, namespace, &peer) }
			if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && slices.ContainsFunc(rule.From, isPeer) {
				for _, ip := range e.networks[string(pod.UID)].Result.IPs {
					address, _, _ := strings.Cut(ip.Address, "/")
					addresses = append(addresses, address)
				}
			}
		}
		if len(addresses) == 0 {
			return nil
		}
		source = from(addresses)
	}
	if len(rule.Ports) == 0 {
		return []string{source + "accept"}
	}
	var rules []string
	for _, port := range rule.Ports {
		// The API server writes TCP where nothing is said.
		rules = append(rules, fmt.Sprintf("%s%s dport %d accept", source, strings.ToLower(string(*port.Protocol)), port.Port.IntVal))
	}
	return rules
}

func from(addresses []string) string {
	slices.Sort(addresses)
	return fmt.Sprintf("ip saddr { %s } ", strings.Join(slices.Compact(addresses), ", "))
}

func (e *enforcer) isPeer(pod *corev1.Pod, namespace string, peer *networkingv1.NetworkPolicyPeer) bool {
	if peer.NamespaceSelector == nil {
		return pod.Namespace == namespace && selects(peer.PodSelector, pod.Labels)
	}
	its, err := e.namespaces.Get(pod.Namespace)
	return err == nil && selects(peer.NamespaceSelector, its.Labels) && (peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels))
}

func selects(selector *metav1.LabelSelector, of map[string]string) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		log.Fatal(err)
	}
	return parsed.Matches(labels.Set(of))
}
