# A node: containerd, kubelet and kube-proxy in its own network namespace and cgroups.

node() {
    local n=$1
    local home=$state/node$n run=/run/e2e-node$n address=198.18.255.$((10 + n))
    mkdir -p "$home/cni" "$home/kubelet" "$run"
    # The pods' range is fixed, so that the routes of lib/network.sh hold.
    cat >"$home/cni/10-bridge.conflist" <<CNI
{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$home/addresses", "ranges": [[{"subnet": "198.18.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"}]}
CNI
    cat >"$home/containerd.toml" <<TOML
version = 3
root = "$home/containerd"
state = "$run/containerd"
[grpc]
  address = "$run/containerd.sock"
[ttrpc]
  address = "$run/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$home/cni"
TOML
    cgroups "e2e-node$n"
    PATH=$programs:$PATH background "containerd$n" "e2e-node$n" "$programs/containerd" -c "$home/containerd.toml"
    wait_for "containerd of node$n" test -S "$run/containerd.sock"
    cat >"$home/kubelet.yaml" <<KUBELET
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
podLogsDir: $home/pods
cgroupDriver: cgroupfs
cgroupRoot: /e2e-node$n
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
# No registry has what a node would throw away when its disk is nearly full.
imageGCHighThresholdPercent: 100
containerRuntimeEndpoint: unix://$run/containerd.sock
clusterDNS: ["$master"]
clusterDomain: cluster.local
resolvConf: /dev/null
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
KUBELET
    background "kubelet$n" "e2e-node$n" "$programs/kubelet" --config "$home/kubelet.yaml" --kubeconfig "$state/node$n.kubeconfig" \
        --root-dir "$home/kubelet" --hostname-override "node$n" --node-ip "$address"
    # The limits of connection tracking are the machine's; a network namespace may not set them.
    cat >"$home/kube-proxy.yaml" <<PROXY
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node$n
clientConnection: {kubeconfig: $state/kube-proxy.kubeconfig}
clusterCIDR: 198.18.0.0/20
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
PROXY
    background "kube-proxy$n" "e2e-node$n" "$programs/kube-proxy" --config "$home/kube-proxy.yaml"
}

# A group for all pods of the node. With the older cgroups (v1) there is one of each kind, and that of cpuset begins without processors.
cgroups() {
    local name=$1 controller file
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p "/sys/fs/cgroup/$name"
        return
    fi
    for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller$name"; done
    for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$name/$file"; done
}
