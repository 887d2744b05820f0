# A switch in the master's namespace; of one with nodes, a cable from it to each node, and to a client outside the cluster.

network() {
    ip netns add $hub
    within $hub ip link set lo up
    within $hub ip link add switch type bridge
    within $hub ip address add $master/24 dev switch
    within $hub ip link set switch up
    # A default route is asked for by Kubernetes; it leads to the switch and nowhere else.
    within $hub ip route add default via $master dev switch
    within $hub sysctl -qw net.ipv4.ip_forward=1
    [ "$nodes" -gt 0 ] || return 0
    local n
    for ((n = 0; n < nodes; n++)); do
        cable "e2e-node$n" "198.18.255.$((10 + n))" "$n"
        within "e2e-node$n" sysctl -qw net.ipv4.ip_forward=1
    done
    cable e2e-client 198.18.255.50 c
    # A flow stays with its node, as with a load balancer that looks at ports.
    within e2e-client sysctl -qw net.ipv4.fib_multipath_hash_policy=1
    local there
    for ((n = 0; n < nodes; n++)); do
        for there in $hub e2e-client $(seq -f e2e-node%g 0 $((nodes - 1))); do
            [ "$there" = "e2e-node$n" ] || within "$there" ip route add "198.18.$n.0/24" via "198.18.255.$((10 + n))"
        done
    done
    for there in $hub e2e-client; do within $there ip route add 198.19.0.0/16 via 198.18.255.10; done
    nat
}

# A phone and the NAT that it is behind, in one: what 198.18.253.2 sends leaves from another address, and comes back while that is remembered.
# Load balancer addresses lead where the client knows, which passes them on.
nat() {
    cable e2e-nat 198.18.255.60 h
    within e2e-nat ip address add 198.18.253.2/32 dev lo
    within e2e-nat nft 'table ip nat { chain out { type nat hook postrouting priority srcnat; ip saddr 198.18.253.2 masquerade; }; }'
    within e2e-nat sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=120
    within e2e-nat ip route add 198.18.254.0/24 via 198.18.255.50
    within e2e-client sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0
}

cable() {
    local namespace=$1 address=$2 port=$3
    ip netns add "$namespace"
    within "$namespace" ip link set lo up
    ip link add "e2eveth$port" netns "$namespace" type veth peer name "port$port" netns $hub
    within "$namespace" ip link set "e2eveth$port" name eth0
    within "$namespace" ip address add "$address/24" dev eth0
    within "$namespace" ip link set eth0 up
    within "$namespace" ip route add default via $master
    within $hub ip link set "port$port" master switch
    within $hub ip link set "port$port" up
}
