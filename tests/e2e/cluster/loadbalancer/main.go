// A load balancer for Services of type LoadBalancer, as one of hardware that speaks BGP is: it gives each an address, and leads that address
// to the nodes that say they have an endpoint (the health check of externalTrafficPolicy Local), each flow to one of them.
//
//	loadbalancer KUBECONFIG NETWORK-NAMESPACE PREFIX NODE-ADDRESS...
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const every = 300 * time.Millisecond

type balancer struct {
	client    *kubernetes.Clientset
	namespace string
	prefix    string
	nodes     []string
	// Next hops by address, as they were set last.
	routes map[string]string
}

func main() {
	if len(os.Args) < 5 {
		log.Fatal("give KUBECONFIG, NETWORK-NAMESPACE, PREFIX (such as 198.18.254) and the nodes' addresses")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	b := balancer{
		client:    kubernetes.NewForConfigOrDie(config),
		namespace: os.Args[2],
		prefix:    os.Args[3],
		nodes:     os.Args[4:],
		routes:    map[string]string{},
	}
	for range time.Tick(every) {
		if err := b.look(); err != nil {
			log.Print(err)
		}
	}
}

func (b *balancer) look() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	services, err := b.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	var ours []corev1.Service
	for _, service := range services.Items {
		if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
			ours = append(ours, service)
			taken[address(&service)] = true
		}
	}
	for i := range ours {
		if address(&ours[i]) == "" {
			if err := b.give(ctx, &ours[i], taken); err != nil {
				return err
			}
		}
		b.lead(&ours[i])
	}
	return nil
}

func address(service *corev1.Service) string {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		return ingress.IP
	}
	return ""
}

// give gives a Service the lowest free address.
func (b *balancer) give(ctx context.Context, service *corev1.Service, taken map[string]bool) error {
	for last := 1; last < 255; last++ {
		free := fmt.Sprintf("%s.%d", b.prefix, last)
		if taken[free] {
			continue
		}
		taken[free] = true
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: free}}
		_, err := b.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{})
		return err
	}
	return fmt.Errorf("no address is free for %s/%s", service.Namespace, service.Name)
}

// lead routes the Service's address to the nodes that take it.
func (b *balancer) lead(service *corev1.Service) {
	hops := b.nodes
	if port := service.Spec.HealthCheckNodePort; port != 0 {
		hops = slices.DeleteFunc(slices.Clone(b.nodes), func(node string) bool { return !healthy(node, port) })
	}
	ip := address(service)
	if ip == "" || b.routes[ip] == strings.Join(hops, " ") || len(hops) == 0 {
		return
	}
	args := []string{"--net=/run/netns/" + b.namespace, "ip", "route", "replace", ip + "/32"}
	for _, hop := range hops {
		args = append(args, "nexthop", "via", hop)
	}
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		log.Printf("%v: %s", err, out)
		return
	}
	log.Printf("%s of %s/%s leads to %v", ip, service.Namespace, service.Name, hops)
	b.routes[ip] = strings.Join(hops, " ")
}

func healthy(node string, port int32) bool {
	client := http.Client{Timeout: 200 * time.Millisecond}
	answer, err := client.Get(fmt.Sprintf("http://%s:%d/healthz", node, port))
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
