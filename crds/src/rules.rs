//! Rules that a structural schema cannot say. Those that CEL can are also stated at the types, for the API server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Application, Dispatcher, HostNetwork, Keys, Media, Period, Problem, Redis, Route, Service, ServiceType, SipCluster,
    TrafficPolicy,
};

/// RFC 4028 s4: a session interval is never below this.
const SHORTEST_SESSION: std::time::Duration = std::time::Duration::from_secs(90);

/// The header field's number has 32 bits (RFC 4028 s4); anything near that is a mistake.
const LONGEST_SESSION: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Keys that count at a time.
const MOST_KEYS: u32 = 8;

/// The rules that span fields and that a resource breaks, one made by other means than [`crate::parse`] perhaps.
#[must_use]
pub fn broken(cluster: &SipCluster) -> Vec<Problem> {
    let spec = &cluster.spec;
    let mut problems = Vec::new();
    problems.extend(application(&spec.application));
    problems.extend(redis(&spec.redis));
    problems.extend(transports(cluster));
    problems.extend(advertised(cluster));
    problems.extend(
        spec.dispatcher
            .host_network
            .as_ref()
            .and_then(|host_network| in_host_network(&spec.dispatcher, host_network)),
    );
    problems.extend(keys(spec.keys));
    problems.extend(outside("spec.containers.quiesce", spec.containers.quiesce, "0s", "24h"));
    problems.extend(outside("spec.proxies.drain", spec.proxies.drain, "0s", "10m"));
    problems.extend(outside(
        "spec.replication.lease",
        spec.replication.lease,
        "100ms",
        "10m",
    ));
    if spec.replicas > spec.partitions {
        problems.push(Problem {
            field: "spec.partitions".into(),
            value: spec.partitions.to_string(),
            wrong: format!(
                "fewer partitions than the {} containers: some would have nothing to do",
                spec.replicas
            ),
            remedy: "leave it out (1024), or write several hundred per container".into(),
        });
    }
    problems
}

fn application(application: &Application) -> Vec<Problem> {
    let Application { answer, b2bua, custom } = application;
    let named: Vec<&str> = [
        ("answer", answer.is_some()),
        ("b2bua", b2bua.is_some()),
        ("custom", custom.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, named)| named.then_some(name))
    .collect();
    match named[..] {
        [] => return vec![unnamed("{}", "no application is named")],
        [_] => {}
        _ => return vec![unnamed(&named.join(" and "), "they exclude one another")],
    }
    let expires = match (answer, b2bua) {
        (Some(answer), _) => ("spec.application.answer.sessionExpires", answer.session_expires),
        (_, Some(b2bua)) => ("spec.application.b2bua.sessionExpires", b2bua.session_expires),
        (None, None) => return Vec::new(),
    };
    let mut problems: Vec<Problem> = session_expires(expires.0, expires.1).into_iter().collect();
    if let Some(b2bua) = b2bua {
        problems.extend(outside("spec.application.b2bua.ring", b2bua.ring, "1s", "1h"));
        problems.extend(b2bua.media.as_ref().and_then(media));
        problems.extend(b2bua.routes.iter().enumerate().flat_map(|(at, entry)| route(at, entry)));
    }
    problems
}

fn unnamed(value: &str, wrong: &str) -> Problem {
    Problem {
        field: "spec.application".into(),
        value: value.into(),
        wrong: wrong.into(),
        remedy: "write one: `answer: {}`, or `b2bua` with its routes".into(),
    }
}

fn session_expires(field: &str, period: Period) -> Option<Problem> {
    let (wrong, remedy) = match period.duration() {
        interval if interval < SHORTEST_SESSION => (
            "RFC 4028 allows no session timer below 90s",
            "write 90s or more; 30m is usual",
        ),
        interval if interval > LONGEST_SESSION => (
            "a lost peer would be noticed after more than a day",
            "write 24h or less; 30m is usual",
        ),
        _ => return None,
    };
    Some(Problem {
        field: field.into(),
        value: period.to_string(),
        wrong: wrong.into(),
        remedy: remedy.into(),
    })
}

/// What the containers read has to read like one.
fn route(at: usize, route: &Route) -> Vec<Problem> {
    let problem = |field: &str, value: &str, remedy: &str| Problem {
        field: format!("spec.application.b2bua.routes[{at}].{field}"),
        value: format!("{value:?}"),
        wrong: "it does not read like one".into(),
        remedy: remedy.into(),
    };
    let mut problems = Vec::new();
    if let Some(source) = route.source.as_deref().filter(|source| !is_network(source)) {
        problems.push(problem(
            "source",
            source,
            "write an address such as 10.0.0.7, or a network such as 10.0.0.0/8",
        ));
    }
    if !is_target(&route.target) {
        let remedy =
            "write a SIP URI with an IP address, such as sip:10.0.0.7:5060;transport=tcp; names are not looked up yet";
        problems.push(problem("target", &route.target, remedy));
    }
    problems
}

/// The first instance that no container could ask, or that stands there twice.
fn media(media: &Media) -> Option<Problem> {
    let instances: Vec<Option<SocketAddr>> = media.rtpengine.iter().map(|text| text.parse().ok()).collect();
    let (at, wrong) = instances.iter().enumerate().find_map(|(at, instance)| match instance {
        Some(instance) if instance.port() > 0 && !instance.ip().is_unspecified() => {
            let twice = instances[..at].contains(&Some(*instance));
            twice.then_some((at, "it stands there twice"))
        }
        _ => Some((at, "it does not read like one")),
    })?;
    Some(Problem {
        field: format!("spec.application.b2bua.media.rtpengine[{at}]"),
        value: format!("{:?}", media.rtpengine[at]),
        wrong: wrong.into(),
        remedy: "write an IP address with the port of listen-ng, such as 10.0.0.5:2223; names are not looked up yet"
            .into(),
    })
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = text
        .split_once('/')
        .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest))
}

/// `sip:`, perhaps a user part, an IP address, perhaps a port and parameters.
fn is_target(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("sip:") else {
        return false;
    };
    let (user, rest) = rest
        .split_once('@')
        .map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (place, params) = rest.split_once(';').unwrap_or((rest, ""));
    let is_place = place.parse::<SocketAddr>().is_ok_and(|place| place.port() != 0)
        || place.parse::<Ipv4Addr>().is_ok()
        || place
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    let is_plain = |text: &str, also: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c));
    is_place
        && user.is_none_or(|user| !user.is_empty() && is_plain(user, "-_.!~*'()%&=+$,/"))
        && is_plain(params, "-_.=;")
}

/// A period outside of what the processes accept.
fn outside(field: &str, period: Period, least: &str, most: &str) -> Option<Problem> {
    let bound = |text: &str| text.parse::<Period>().expect("a period of ours");
    let wrong = match period {
        period if period < bound(least) => "this is too short",
        period if period > bound(most) => "this is too long",
        _ => return None,
    };
    Some(Problem {
        field: field.into(),
        value: period.to_string(),
        wrong: wrong.into(),
        remedy: format!("write a period from {least} to {most}"),
    })
}

fn redis(redis: &Redis) -> Option<Problem> {
    let Redis { managed, external } = redis;
    if managed.is_some() && external.is_some() {
        return Some(Problem {
            field: "spec.redis".into(),
            value: "managed and external".into(),
            wrong: "they exclude one another".into(),
            remedy: "leave one out".into(),
        });
    }
    if let Some(external) = external
        && external.url.is_some() == external.secret.is_some()
    {
        return Some(Problem {
            field: "spec.redis.external".into(),
            value: if external.url.is_some() {
                "url and secret"
            } else {
                "neither url nor secret"
            }
            .into(),
            wrong: "one of them says where Redis is".into(),
            remedy: "write its url, or the secret that holds it".into(),
        });
    }
    if let Some(external) = external
        && let Some(url) = &external.url
        && url.starts_with("rediss") != (external.ca_secret.is_some() || external.ca_file.is_some())
    {
        return Some(Problem {
            field: "spec.redis.external".into(),
            value: if url.starts_with("rediss") {
                "a url of TLS, and no CA"
            } else {
                "a CA, and a url without TLS"
            }
            .into(),
            wrong: "TLS takes both".into(),
            remedy: "write a url that begins with rediss and a CA (caSecret; on one machine caFile), or neither".into(),
        });
    }
    let instances = managed.as_ref().map(|managed| managed.instances)?;
    (!matches!(instances, 1 | 3 | 5)).then(|| Problem {
        field: "spec.redis.managed.instances".into(),
        value: instances.to_string(),
        wrong: "with an even number no more of them may be lost than with one less".into(),
        remedy: "write 1, 3 or 5".into(),
    })
}

fn keys(Keys { current, oldest }: Keys) -> Option<Problem> {
    let (field, value, wrong, remedy) = match current.checked_sub(oldest) {
        None => (
            "spec.keys.oldest",
            oldest,
            format!("no key counts that is later than {current}, the current one"),
            format!("write {current}, or a lower number"),
        ),
        Some(retired) if retired >= MOST_KEYS => (
            "spec.keys.current",
            current,
            format!("more than {MOST_KEYS} keys would count at a time"),
            format!("raise spec.keys.oldest (now {oldest}) first, once no call is left that began with the oldest key"),
        ),
        Some(_) => return None,
    };
    Some(Problem {
        field: field.into(),
        value: value.to_string(),
        wrong,
        remedy,
    })
}

fn transports(cluster: &SipCluster) -> Option<Problem> {
    let transports = &cluster.spec.dispatcher.transports;
    let twice = transports
        .iter()
        .enumerate()
        .any(|(at, transport)| transports[..at].contains(transport));
    twice.then(|| Problem {
        field: "spec.dispatcher.transports".into(),
        value: format!("{transports:?}").to_lowercase(),
        wrong: "a transport stands there twice".into(),
        remedy: "write [udp, tcp]".into(),
    })
}

/// The lowest port at which a process without privileges may listen.
const UNPRIVILEGED: u16 = 1024;

/// The first thing that makes no sense for proxies in the network of their nodes.
fn in_host_network(dispatcher: &Dispatcher, host_network: &HostNetwork) -> Option<Problem> {
    let problem = |field: &str, value: String, wrong: &str, remedy: &str| {
        Some(Problem {
            field: format!("spec.dispatcher.{field}"),
            value,
            wrong: wrong.into(),
            remedy: remedy.into(),
        })
    };
    if let Some(advertised) = dispatcher.advertised {
        let wrong = "with hostNetwork each proxy has its node's address";
        let remedy = "leave it out, and write a name that leads to all of them into spec.dispatcher.hostNetwork.host";
        return problem("advertised", advertised.to_string(), wrong, remedy);
    }
    if let Some((field, value)) = of_service(&dispatcher.service) {
        let wrong = "with hostNetwork nothing stands in front of the proxies";
        return problem(&format!("service.{field}"), value, wrong, "leave it out");
    }
    let (
        port,
        HostNetwork {
            ucf_port, admin_port, ..
        },
    ) = (dispatcher.port, host_network);
    if port < UNPRIVILEGED {
        let wrong = "proxies have no privileges in their nodes' network";
        return problem("port", port.to_string(), wrong, "write a number from 1024 on");
    }
    if port == *ucf_port || port == *admin_port || ucf_port == admin_port {
        let wrong = "a proxy cannot listen twice at one port of its node";
        let remedy = "write different numbers for spec.dispatcher.port, ucfPort and adminPort";
        let value = format!("{port}, {ucf_port} and {admin_port}");
        return problem("hostNetwork", value, wrong, remedy);
    }
    None
}

/// What the manifest says of a Service, as far as it can be told from what holds where it says nothing.
fn of_service(service: &Service) -> Option<(&'static str, String)> {
    let Service {
        kind,
        class,
        annotations,
        external_traffic_policy,
        node_port,
    } = service;
    match (class, annotations.keys().next(), node_port) {
        (Some(class), ..) => return Some(("class", class.clone())),
        (_, Some(annotation), _) => return Some(("annotations", annotation.clone())),
        (.., Some(port)) => return Some(("nodePort", port.to_string())),
        (None, None, None) => {}
    }
    match (kind, external_traffic_policy) {
        (ServiceType::LoadBalancer, TrafficPolicy::Local) => None,
        (ServiceType::LoadBalancer, TrafficPolicy::Cluster) => Some(("externalTrafficPolicy", "Cluster".into())),
        (ServiceType::NodePort, _) => Some(("type", "NodePort".into())),
        (ServiceType::ClusterIp, _) => Some(("type", "ClusterIP".into())),
    }
}

/// A wildcard is a place to listen, but nobody can answer to it, or to many at once.
fn advertised(cluster: &SipCluster) -> Option<Problem> {
    let advertised = cluster.spec.advertised();
    let is_nobodys = advertised.ip().is_unspecified() || advertised.ip().is_multicast();
    is_nobodys.then(|| Problem {
        field: match cluster.spec.dispatcher.advertised {
            Some(_) => "spec.dispatcher.advertised".into(),
            None => "spec.dispatcher.address".into(),
        },
        value: advertised.ip().to_string(),
        wrong: "peers cannot send to it, and it would stand in Via, Record-Route and Contact".into(),
        remedy: "set spec.dispatcher.advertised to the address by which peers reach this cluster".into(),
    })
}
