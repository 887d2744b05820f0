//! The kind `SipCluster`: what is wanted.
//!
//! A doc comment here is what `kubectl explain` and the manifest reference say, so it speaks to whoever writes a manifest.

// A column's type stands there as often as the type has columns.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::SipClusterStatus;
use crate::{Period, Quantity};

/// What the URL of a Redis looks like.
pub(crate) const REDIS_URL_PATTERN: &str =
    r"^(redis://[^\s]+|rediss://[^\s#]+|rediss?-sentinel://[^\s#]+#[^\s#]+|rediss?-cluster://[^\s#/]+)$";

/// What a number or a service looks like: what a user part (RFC 3261 s25.1) has without escapes, a URN (RFC 5031) as well, and no comma.
pub(crate) const EMERGENCY_PATTERN: &str = "^[A-Za-z0-9+*._:-]{1,64}$";

/// What a host name looks like: what is left of an IPv4 address has no letter in its last label (RFC 3261 s25.1).
pub(crate) const HOST_PATTERN: &str = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z]([a-z0-9-]*[a-z0-9])?$";

/// What a SipCluster shall be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "sipcluster.dev",
    version = "v1alpha1",
    kind = "SipCluster",
    namespaced,
    status = "SipClusterStatus",
    derive = "PartialEq",
    shortname = "sipc",
    category = "sip",
    doc = "A cluster of SIP containers behind one address, whose calls survive the loss of any of its parts.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Containers", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Dialogs", type_ = "integer", json_path = ".status.dialogs"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.replicas <= self.partitions", "partitions: fewer than the containers, some would have nothing to do; leave it out (1024), or write several hundred per container"),
    validation = ("has(self.dispatcher.advertised) == has(oldSelf.dispatcher.advertised) && (!has(self.dispatcher.advertised) || self.dispatcher.advertised == oldSelf.dispatcher.advertised)", "dispatcher.advertised cannot be changed, since calls carry the address: put back the old value, or create another SipCluster"),
    validation = ("self.dispatcher.port == oldSelf.dispatcher.port", "dispatcher.port cannot be changed, since calls carry the port: put back the old number, or create another SipCluster"),
    validation = ("has(self.dispatcher.hostNetwork) == has(oldSelf.dispatcher.hostNetwork) && (!has(self.dispatcher.hostNetwork) || self.dispatcher.hostNetwork == oldSelf.dispatcher.hostNetwork)", "dispatcher.hostNetwork cannot be changed, since calls carry the addresses that go with it: put back what was there, or create another SipCluster"),
    validation = ("self.replication.lease == oldSelf.replication.lease", "replication.lease cannot be changed, since containers promise one another things for as long as it is: put back the old value, or create another SipCluster"),
    validation = ("has(self.redis.external) == has(oldSelf.redis.external) && (!has(self.redis.external) || has(self.redis.external.url) == has(oldSelf.redis.external.url) && (!has(self.redis.external.url) || self.redis.external.url == oldSelf.redis.external.url) && has(self.redis.external.secret) == has(oldSelf.redis.external.secret) && (!has(self.redis.external.secret) || self.redis.external.secret == oldSelf.redis.external.secret) && self.redis.external.instances == oldSelf.redis.external.instances)", "redis cannot be changed, since all containers must agree on who owns what in one Redis: put back the old value, or create another SipCluster"),
    validation = ("(has(self.redis.managed) ? self.redis.managed.instances : 1) == (has(oldSelf.redis.managed) ? oldSelf.redis.managed.instances : 1)", "redis.managed.instances cannot be changed, since containers and Sentinels count on the number: put back the old one, or create another SipCluster"),
    validation = ("(has(self.redis.managed) ? self.redis.managed.password : 1) - (has(oldSelf.redis.managed) ? oldSelf.redis.managed.password : 1) in [0, 1]", "redis.managed.password: it stays, or grows by one: write the number that it has, or the next one"),
    validation = ("!has(self.application.custom) || has(self.containers.image)", "containers.image: the application is your own; name the image that runs it (on one machine: any name)")
)]
pub struct SipClusterSpec {
    /// How many containers share the calls. Each backs up all others; with two or more the loss of one loses no call.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: u32,

    /// Into how many partitions the calls are divided: the unit in which they move between containers. Several hundred per container spread
    /// the load of a lost one evenly. It cannot be changed later.
    #[serde(default = "defaults::partitions")]
    #[schemars(range(min = 1, max = 16384))]
    #[x_kube(validation = ("self == oldSelf", "partitions cannot be changed: put back the old number, or create another SipCluster"))]
    pub partitions: u32,

    /// What handles the calls. Exactly one application is named.
    pub application: Application,

    /// The processes that own calls and run the application.
    #[serde(default)]
    pub containers: Containers,

    /// The processes that hold client connections and route every message.
    #[serde(default)]
    pub proxies: Proxies,

    /// The cluster's single address.
    #[serde(default)]
    pub dispatcher: Dispatcher,

    /// Where a second copy of every call is kept.
    #[serde(default)]
    pub redis: Redis,

    /// When a state counts as safe.
    #[serde(default)]
    pub replication: Replication,

    /// On Kubernetes: the secrets by which the cluster knows its own calls, and its parts one another. Each has a number, and a Secret of its own.
    #[serde(default)]
    pub keys: Keys,

    /// On Kubernetes: nothing that the manifest changes is carried out while this is true. What fails is still taken over and started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// What handles the calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = (
    "[has(self.answer), has(self.b2bua), has(self.custom)].filter(named, named).size() == 1",
    "name one application: answer, b2bua or custom"
))]
pub struct Application {
    /// Answers every call itself (a user agent server): 180 while it rings, then 200, and holds the call until the caller or the session
    /// timer ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,

    /// Calls out again for every call that comes in, and connects the two (a back-to-back user agent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b2bua: Option<B2bua>,

    /// An application of your own, in an executable of your own (docs/applications.md).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,
}

/// An application of your own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Custom {
    /// The executable that runs in place of `sipcluster-container` on one machine; a relative path begins at the manifest's directory. On
    /// Kubernetes it counts for nothing: `containers.image` has it.
    pub command: PathBuf,

    /// What the application is given, in its own words.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// How calls are answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("duration(self.sessionExpires) >= duration('90s') && duration(self.sessionExpires) <= duration('24h')", "sessionExpires: write a period from 90s to 24h"))]
pub struct Answer {
    /// How long a call rings before it is answered; at once if `0s`.
    #[serde(default = "defaults::ring")]
    pub ring: Period,

    /// After how long an answered call is ended by a BYE; never if `0s`.
    #[serde(default = "defaults::hold")]
    pub hold: Period,

    /// Session timer (RFC 4028): a call whose peer does not refresh it for so long is ended. From `90s` to `24h`.
    #[serde(default = "defaults::session_expires")]
    pub session_expires: Period,

    /// Answers with the caller's own session description, so that media comes back to it, instead of one that leads nowhere.
    #[serde(default)]
    pub echo: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            ring: defaults::ring(),
            hold: defaults::hold(),
            session_expires: defaults::session_expires(),
            echo: false,
        }
    }
}

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("duration(self.ring) >= duration('1s') && duration(self.ring) <= duration('1h')", "ring: write a period from 1s to 1h"),
    validation = ("duration(self.sessionExpires) >= duration('90s') && duration(self.sessionExpires) <= duration('24h')", "sessionExpires: write a period from 90s to 24h"))]
pub struct B2bua {
    /// The first route that matches a call says where it goes; without a match it is refused with 404.
    #[schemars(length(min = 1, max = 256))]
    pub routes: Vec<Route>,

    /// How long a callee may ring. From `1s` to `1h`.
    #[serde(default = "defaults::callee_rings")]
    pub ring: Period,

    /// Session timer (RFC 4028) of both sides: a call whose peer does not refresh it for so long is ended. From `90s` to `24h`.
    #[serde(default = "defaults::session_expires")]
    pub session_expires: Period,

    /// What leads the media of calls. Left out: it goes from end to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
}

/// What leads the media of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Media {
    /// Where instances of rtpengine take the ng protocol over UDP (`listen-ng`): IP address and port, such as `10.0.0.5:2223`. Calls are
    /// spread over them; one that does not answer is left out until it does.
    #[schemars(length(min = 1, max = 16), inner(length(min = 7, max = 47)))]
    pub rtpengine: Vec<String>,
}

/// A route. What is left out matches everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The method of the request; only INVITE makes calls.
    #[serde(default)]
    pub method: RoutedMethod,

    /// The user part of the URI that is called, or the number of a tel URI. `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub user: Option<String>,

    /// The host of the URI that is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub domain: Option<String>,

    /// The address that the call comes from, such as `10.0.0.7`, or its network, such as `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 43))]
    pub source: Option<String>,

    /// Where the call goes: a SIP URI with an IP address, such as `sip:10.0.0.7:5060;transport=tcp`. Without a user part it gets the one
    /// that was called.
    #[schemars(length(min = 5, max = 255))]
    pub target: String,
}

/// A method that makes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RoutedMethod {
    /// RFC 3261 s13.
    #[default]
    Invite,
}

/// The processes that own calls and run the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("duration(self.quiesce) >= duration('0s') && duration(self.quiesce) <= duration('24h')", "quiesce: write a period from 0s to 24h"))]
pub struct Containers {
    /// On Kubernetes: the image of the containers. Left out: the one that came with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// On Kubernetes: `requests` and `limits` of each pod's CPU and memory, in the words of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Worker threads of each container. Left out: one per core that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub workers: Option<u32>,

    /// How long a container that is told to leave may take to hand its calls over. From `0s` to `24h`.
    #[serde(default = "defaults::quiesce")]
    pub quiesce: Period,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            image: None,
            resources: None,
            workers: None,
            quiesce: defaults::quiesce(),
        }
    }
}

/// The processes that hold client connections and route every message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("duration(self.drain) >= duration('0s') && duration(self.drain) <= duration('10m')", "drain: write a period from 0s to 10m"))]
pub struct Proxies {
    /// On Kubernetes: the image of the proxies. Left out: the one that came with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// On Kubernetes: `requests` and `limits` of each pod's CPU and memory, in the words of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// On Kubernetes: the labels of the nodes that proxies may run on, such as `{example.com/edge: "true"}`. Left out: any. With
    /// `dispatcher.hostNetwork` choose as many nodes as there are proxies, so that each proxy's successor has its address.
    #[serde(
        default,
        deserialize_with = "crate::values::texts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub node_selector: BTreeMap<String, String>,

    /// How many proxies share the address, or have one each (`dispatcher.hostNetwork`). With two or more the loss of one loses no call.
    #[serde(default = "defaults::proxies")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: u32,

    /// Worker threads of each proxy. Left out: one per core that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub workers: Option<u32>,

    /// Whose calls are emergency calls, which an overload refuses last: numbers as callers dial them, such as `"112"` (the user part of a SIP URI, or
    /// the number of a tel URI), and services, such as `urn:service:police`, with those below them. `urn:service:sos` (RFC 5031) always is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = EMERGENCY_PATTERN)))]
    pub emergency: Vec<String>,

    /// How long a proxy that is told to leave may wait for client connections to come to rest before it closes them. From `0s` to `10m`.
    #[serde(default = "defaults::drain")]
    pub drain: Period,
}

impl Default for Proxies {
    fn default() -> Self {
        Self {
            image: None,
            resources: None,
            node_selector: BTreeMap::new(),
            replicas: defaults::proxies(),
            workers: None,
            emergency: Vec::new(),
            drain: defaults::drain(),
        }
    }
}

/// The cluster's address, or its nodes'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("!has(self.hostNetwork) || !has(self.advertised)", "dispatcher.advertised: with hostNetwork each proxy has its node's address: leave it out, and write a name that leads to all of them into hostNetwork.host"),
    validation = ("!has(self.hostNetwork) || self.service.type == 'LoadBalancer' && self.service.externalTrafficPolicy == 'Local' && !has(self.service.class) && !has(self.service.annotations) && !has(self.service.nodePort)", "dispatcher.service: with hostNetwork nothing stands in front of the proxies: leave out its type, class, annotations, externalTrafficPolicy and nodePort"),
    validation = ("!has(self.hostNetwork) || self.port >= 1024", "dispatcher.port: proxies have no privileges in their nodes' network: write a number from 1024 on"),
    validation = ("!has(self.hostNetwork) || self.port != self.hostNetwork.ucfPort && self.port != self.hostNetwork.adminPort && self.hostNetwork.ucfPort != self.hostNetwork.adminPort", "dispatcher.hostNetwork: a proxy cannot listen twice at one port of its node: write different numbers for dispatcher.port, ucfPort and adminPort"),
    validation = ("isIP(self.address)", "dispatcher.address: write an IP address such as 127.0.0.1 or ::1"),
    validation = ("!has(self.advertised) || isIP(self.advertised)", "dispatcher.advertised: write an IP address such as 203.0.113.7 or 2001:db8::1; names are not looked up"),
    validation = ("!has(self.advertised) || !(self.advertised in ['0.0.0.0', '::']) && !['224.', '225.', '226.', '227.', '228.', '229.', '230.', '231.', '232.', '233.', '234.', '235.', '236.', '237.', '238.', '239.', 'ff', 'FF'].exists(begin, self.advertised.startsWith(begin))", "dispatcher.advertised: peers cannot send calls to an unspecified or a multicast address: write the one by which they reach this cluster"),
    validation = ("has(self.hostNetwork) || self.service.type != 'NodePort' || has(self.service.nodePort) && has(self.advertised)", "dispatcher.service: a NodePort Service has no address of its own, and calls carry the cluster's: write the nodes' address (dispatcher.advertised) and port (dispatcher.service.nodePort) as peers reach them"),
    validation = ("self.service.type != 'LoadBalancer' || oldSelf.service.type != 'LoadBalancer' || has(self.service.class) == has(oldSelf.service.class) && (!has(self.service.class) || self.service.class == oldSelf.service.class)", "dispatcher.service.class of a LoadBalancer cannot be changed, set later or removed, since Kubernetes keeps it for as long as the Service is there: put back what was there, or create another SipCluster"))]
pub struct Dispatcher {
    /// The IP address at which proxies listen on one machine. On Kubernetes the Service's address takes its place, or each node's.
    #[serde(default = "defaults::address")]
    #[schemars(with = "String", extend("format" = "ip", "maxLength" = 45))]
    pub address: IpAddr,

    /// The SIP port, the same for every transport.
    #[serde(default = "defaults::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// The transports that are served.
    #[serde(default = "defaults::transports")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub transports: Vec<Transport>,

    /// What stands in Via, Record-Route and Contact, if peers reach the cluster by another IP address than the one at which it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "ip", "maxLength" = 45))]
    pub advertised: Option<IpAddr>,

    /// On Kubernetes: the Service in front of the proxies.
    #[serde(default)]
    pub service: Service,

    /// On Kubernetes: proxies are in the network of their nodes, at most one on each; then there is no Service with an address in front of them, and
    /// what the cluster sends leaves from these nodes' addresses. `{}` is enough. It cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<HostNetwork>,
}

/// Proxies in the network of their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostNetwork {
    /// A name that leads peers to all these nodes, by A, AAAA or SRV records (RFC 3263): Record-Route and Contact have it, so that what belongs to a
    /// call reaches another node when the one that it began at is lost. Left out: they have the address of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOST_PATTERN), length(max = 253))]
    pub host: Option<String>,

    /// The nodes' port for the links between proxies. Clusters that may share a node need different ones.
    #[serde(default = "defaults::ucf_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub ucf_port: u16,

    /// The nodes' port for the proxies' health, metrics and state. Clusters that may share a node need different ones.
    #[serde(default = "defaults::admin_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub admin_port: u16,
}

/// The Service in front of the proxies. Its address stands in the messages of every call, so the cluster starts once it has one: the load
/// balancer's for `LoadBalancer`, the cluster's for `ClusterIP`; for `NodePort` the manifest says it (`dispatcher.advertised`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// How the Service is reached.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,

    /// The class of the load balancer (`loadBalancerClass`). While the type is `LoadBalancer` it cannot be changed, set later or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,

    /// Annotations of the Service, such as a cloud's load balancer wants them.
    #[serde(
        default,
        deserialize_with = "crate::values::texts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,

    /// `Local`: proxies see the true source of each message, and a node without a proxy takes none. `Cluster`: any node takes messages, but
    /// their source is the node's.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,

    /// The port of every node, for `NodePort` and `LoadBalancer`. Left out: one that Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// By an address of its own from outside.
    #[default]
    LoadBalancer,
    /// By a port of every node.
    NodePort,
    /// From within the Kubernetes cluster only.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

/// Which proxies a message from outside may be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// Those of the node that it reached.
    #[default]
    Local,
    /// All.
    Cluster,
}

/// CPU and memory of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What it is sure to have, such as `{cpu: 500m, memory: 256Mi}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,

    /// What it may have at most. A container that is held back by a CPU limit is slow to everyone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for Dispatcher {
    fn default() -> Self {
        Self {
            address: defaults::address(),
            port: defaults::port(),
            transports: defaults::transports(),
            advertised: None,
            service: Service::default(),
            host_network: None,
        }
    }
}

/// A transport of SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// RFC 3261 s18, datagrams.
    Udp,
    /// RFC 3261 s18, streams.
    Tcp,
}

/// Where a second copy of every call is kept. At most one of the two; `managed` if neither is named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("!(has(self.managed) && has(self.external))", "managed and external exclude one another: leave one out"))]
pub struct Redis {
    /// The cluster runs a Redis of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,

    /// A Redis that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
}

/// A Redis of the cluster's own: in memory, without persistence, since the containers hold the other copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("self.instances in [1, 3, 5]", "instances: write 1, 3 or 5; with an even number no more of them may be lost than with one less"))]
pub struct Managed {
    /// On Kubernetes: how many Redis servers hold the data, each on a node of its own with a Sentinel beside it: 1, 3 or 5. With 3 the loss of any
    /// one is made good within seconds, with 5 that of any two; with 1 there is no Sentinel, and calls go on from memory while it is away. On one
    /// machine one is run. It cannot be changed later.
    #[serde(default = "defaults::redis_instances")]
    #[schemars(range(min = 1, max = 5))]
    pub instances: u32,

    /// On Kubernetes: the number of the password that opens it. One more asks for a new one, which is made for it: Redis is replaced until it
    /// accepts both, then the containers, and Redis again, until they present the new one; at last the old one opens nothing any more. Calls that are up
    /// go on.
    #[serde(default = "defaults::key")]
    #[schemars(range(min = 1, max = 9999))]
    pub password: u32,

    /// On Kubernetes: the image of the Redis; for several instances with what `charts/images/redis` holds. Left out: the one that came with the
    /// operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// On Kubernetes: `requests` and `limits` of each pod's CPU and memory, in the words of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl Default for Managed {
    fn default() -> Self {
        Self {
            instances: defaults::redis_instances(),
            password: defaults::key(),
            image: None,
            resources: None,
        }
    }
}

/// A Redis that is there already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.url) != has(self.secret)", "redis.external: write its url, or the secret that holds it, and not both"),
    validation = ("!has(self.url) || self.url.startsWith('rediss') == (has(self.caSecret) || has(self.caFile))", "redis.external: TLS takes both a url that begins with rediss and a CA (caSecret; on one machine caFile): write both, or neither"),
    validation = ("!has(self.caFile)", "redis.external.caFile: pods have none of your files: put it into a Secret, and name that (caSecret)"))]
pub struct External {
    /// Its URL: `redis://[:PASSWORD@]HOST[:PORT][/DB]`, or, for one whose Sentinels say which server is the master,
    /// `redis-sentinel://[:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/DB]#MASTER`, or, for some nodes of a Redis Cluster,
    /// `redis-cluster://[:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]` (port 6379, of Sentinels 26379, unless it is named). With `rediss` in place of `redis` servers, Sentinels and nodes are spoken to over
    /// TLS; then their CA is named too. A password in it can be read by whoever may read the SipCluster: on Kubernetes `secret` keeps it from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = REDIS_URL_PATTERN))]
    pub url: Option<String>,

    /// On Kubernetes: the Secret that holds the URL, in the namespace of the SipCluster. A container reads it when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,

    /// On Kubernetes: the Secret that holds the CA of the servers' certificates, in the namespace of the SipCluster. Another CA in it is taken at
    /// the next connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaKey>,

    /// On one machine: the file that holds it (PEM); a relative path begins at the manifest's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// How many Redis servers hold the data, the master included. With two or more a state counts as safe once a replica has it too, and a lease
    /// or a claim once a majority of them has. It cannot be changed later.
    #[serde(default = "defaults::redis_instances")]
    #[schemars(range(min = 1, max = 9))]
    pub instances: u32,
}

/// A value in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Under which key of its `data` the value stands.
    #[serde(default = "defaults::url_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The certificates of CAs in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Under which key of its `data` they stand, in PEM.
    #[serde(default = "defaults::ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// When a state counts as safe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("duration(self.lease) >= duration('100ms') && duration(self.lease) <= duration('10m')", "lease: write a period from 100ms to 10m"))]
pub struct Replication {
    /// `acknowledged`: nothing is answered before Redis has acknowledged the state that the answer stands for.
    #[serde(default)]
    pub mode: Mode,

    /// The lease that a container renews in Redis. One that cannot renew it, and that no proxy hears, is taken over once it has run out; a crash
    /// is noticed at once without it. From `100ms` to `10m`.
    #[serde(default = "defaults::lease")]
    pub lease: Period,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            lease: defaults::lease(),
        }
    }
}

/// How replication is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// By Redis's acknowledgement.
    #[default]
    Acknowledged,
}

/// Which keys count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("self.oldest <= self.current", "keys.oldest: no key counts that is later than current: write the number of current, or a lower one"),
    validation = ("self.current - self.oldest < 8", "keys: more than eight would count at a time: raise oldest first, once no call is left that began with the oldest key"),
    validation = ("self.current == oldSelf.current || self.current == oldSelf.current + 1", "keys.current: it stays, or grows by one: write the number that it has, or the next one"),
    validation = ("self.oldest >= oldSelf.oldest", "keys.oldest cannot be lowered, since pods have forgotten what was below it: put back the old number"))]
pub struct Keys {
    /// The number of the key that new calls carry. One more asks for a rotation: all pods are replaced until they know the new key, then
    /// again until they use it. Calls that are up go on.
    #[serde(default = "defaults::key")]
    #[schemars(range(min = 1, max = 9999))]
    pub current: u32,

    /// The lowest number that still counts. Raise it to `current` when no call is left that is older than `status.keys.since`: what carries a
    /// lower one is answered with 481.
    #[serde(default = "defaults::key")]
    #[schemars(range(min = 1, max = 9999))]
    pub oldest: u32,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            current: defaults::key(),
            oldest: defaults::key(),
        }
    }
}

impl SipClusterSpec {
    /// A Redis that is not ours to run.
    #[must_use]
    pub fn external_redis(&self) -> Option<&External> {
        self.redis.external.as_ref()
    }

    /// Its URL, if the manifest says it.
    #[must_use]
    pub fn external_redis_url(&self) -> Option<&str> {
        self.external_redis()?.url.as_deref()
    }

    /// How many Redis servers hold the data on Kubernetes, the master included.
    #[must_use]
    pub fn redis_instances(&self) -> u32 {
        let Redis { managed, external } = &self.redis;
        let managed = managed.as_ref().map(|managed| managed.instances);
        let external = external.as_ref().map(|external| external.instances);
        external.or(managed).unwrap_or_else(defaults::redis_instances)
    }

    /// The number of the password of the cluster's own Redis.
    #[must_use]
    pub fn redis_password(&self) -> u32 {
        let managed = self.redis.managed.as_ref();
        managed.map_or_else(defaults::key, |managed| managed.password)
    }

    /// The address that peers see.
    #[must_use]
    pub fn advertised(&self) -> std::net::SocketAddr {
        let Dispatcher {
            address,
            port,
            advertised,
            ..
        } = &self.dispatcher;
        (advertised.unwrap_or(*address), *port).into()
    }
}

/// What holds where a manifest is silent.
mod defaults {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Period, Transport};

    pub(super) fn replicas() -> u32 {
        3
    }

    pub(super) fn partitions() -> u32 {
        1024
    }

    pub(super) fn proxies() -> u32 {
        2
    }

    pub(super) fn redis_instances() -> u32 {
        1
    }

    pub(super) fn url_key() -> String {
        "url".into()
    }

    pub(super) fn ca_key() -> String {
        "ca.crt".into()
    }

    pub(super) fn key() -> u32 {
        1
    }

    pub(super) fn ring() -> Period {
        Period::from_secs(0)
    }

    pub(super) fn hold() -> Period {
        Period::from_secs(0)
    }

    /// RFC 4028 s4.2 recommends 30 minutes.
    pub(super) fn session_expires() -> Period {
        Period::from_secs(1800)
    }

    /// RFC 3261 s16.6 step 11: as long as a proxy would wait.
    pub(super) fn callee_rings() -> Period {
        Period::from_secs(180)
    }

    pub(super) fn quiesce() -> Period {
        Period::from_secs(20)
    }

    pub(super) fn drain() -> Period {
        Period::from_secs(10)
    }

    pub(super) fn lease() -> Period {
        Period::from_secs(2)
    }

    pub(super) fn address() -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    pub(super) fn port() -> u16 {
        5060
    }

    pub(super) fn ucf_port() -> u16 {
        5071
    }

    pub(super) fn admin_port() -> u16 {
        9090
    }

    pub(super) fn transports() -> Vec<Transport> {
        vec![Transport::Udp, Transport::Tcp]
    }
}
