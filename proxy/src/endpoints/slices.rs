//! The EndpointSlices of Services, watched.
//!
//! A watch that breaks is begun again for ever; until then the last known list holds. Whether an endpoint is ready is not asked: one that still
//! joins is linked to so that it can work once it has joined, one that terminates hands over, and liveness is what the links tell.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{StreamExt as _, select_all};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Endpoint, publish_if_new};

/// A pause before the API server is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// The most endpoints that are taken in; a SipCluster has 64 containers and 64 proxies.
const MOST: usize = 1024;

/// A Service whose endpoints are followed. Ports are known by their names: `sip`, of containers only, and `ucf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::str::FromStr for Service {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (namespace, name) = text.split_once('/').ok_or(())?;
        let fits = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        (fits(namespace) && fits(name))
            .then(|| Self {
                namespace: namespace.into(),
                name: name.into(),
            })
            .ok_or(())
    }
}

/// Follows the slices for ever and publishes each new list.
pub async fn follow(services: Vec<Service>, publish: watch::Sender<Vec<Endpoint>>) {
    let client = loop {
        match Client::try_default().await {
            Ok(client) => break client,
            Err(error) => warn!(%error, "no way to the API server yet"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let mut stores: Vec<Store<EndpointSlice>> = Vec::new();
    let mut watches = Vec::new();
    let mut broken = vec![false; services.len()];
    for (number, service) in services.iter().enumerate() {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
        let config = watcher::Config::default()
            .timeout(60)
            .labels(&format!("kubernetes.io/service-name={}", service.name));
        let (store, writer) = reflector::store();
        stores.push(store);
        let events = watcher(api, config).default_backoff().reflect(writer);
        watches.push(events.map(move |event| (number, event)).boxed());
    }
    let mut events = pin!(select_all(watches));
    while let Some((number, event)) = events.next().await {
        let service = &services[number].name;
        match event {
            Ok(_) => {
                if std::mem::take(&mut broken[number]) {
                    info!(service, "EndpointSlices are watched again");
                }
                publish_if_new(&publish, stores.iter().flat_map(endpoints).take(MOST).collect());
            }
            // Said once: it is tried for ever.
            Err(error) if !std::mem::replace(&mut broken[number], true) => {
                warn!(service, %error, "EndpointSlices are not watched; the last known list holds, and nobody new is found");
            }
            Err(error) => debug!(service, %error, "EndpointSlices are not watched"),
        }
    }
}

/// All endpoints of a Service, in the order of their slices' names.
fn endpoints(store: &Store<EndpointSlice>) -> Vec<Endpoint> {
    let slices: BTreeMap<String, _> = store
        .state()
        .into_iter()
        .map(|slice| (slice.name_any(), slice))
        .collect();
    slices.values().flat_map(|slice| of_slice(slice)).collect()
}

fn of_slice(slice: &EndpointSlice) -> Vec<Endpoint> {
    let port = |name: &str| {
        let ports = slice.ports.iter().flatten();
        let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
        named.find_map(|port| u16::try_from(port.port?).ok())
    };
    let (sip, Some(ucf)) = (port("sip"), port("ucf")) else {
        return Vec::new();
    };
    let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
        let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let name = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
        Some(Endpoint {
            name: name.unwrap_or_else(|| ip.to_string()),
            sip: sip.map(|port| SocketAddr::new(ip, port)),
            ucf: SocketAddr::new(ip, ucf),
        })
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ports: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(serde_json::json!({
            "addressType": "IPv4",
            "metadata": { "name": "demo-containers-x" },
            "ports": ports,
            "endpoints": [
                { "addresses": ["198.51.100.7"], "conditions": { "ready": false, "serving": true, "terminating": true },
                  "targetRef": { "kind": "Pod", "name": "demo-0" } },
                { "addresses": ["198.51.100.8"] },
                { "addresses": ["nonsense"] },
            ],
        }))
        .expect("a slice")
    }

    #[test]
    fn every_endpoint_counts_whether_ready_or_not() {
        let found = of_slice(&slice(
            serde_json::json!([{ "name": "sip", "port": 5070 }, { "name": "ucf", "port": 5071 }]),
        ));
        let text: Vec<_> = found
            .iter()
            .map(|found| (found.name.as_str(), found.sip, found.ucf))
            .collect();
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(
            text,
            [
                ("demo-0", Some(at("198.51.100.7:5070")), at("198.51.100.7:5071")),
                ("198.51.100.8", Some(at("198.51.100.8:5070")), at("198.51.100.8:5071")),
            ]
        );
    }

    #[test]
    fn what_has_no_ucf_port_is_no_part_of_ours_and_what_has_no_sip_port_is_a_proxy() {
        assert_eq!(
            of_slice(&slice(serde_json::json!([{ "name": "http", "port": 80 }]))),
            []
        );
        let proxies = of_slice(&slice(serde_json::json!([{ "name": "ucf", "port": 5071 }])));
        assert!(proxies.len() == 2 && proxies.iter().all(|proxy| proxy.sip.is_none()));
    }

    #[test]
    fn a_service_is_named_with_its_namespace() {
        let service = Service {
            namespace: "default".into(),
            name: "demo-proxy".into(),
        };
        assert_eq!("default/demo-proxy".parse(), Ok(service));
        for wrong in ["demo-proxy", "/demo", "a/", "a/b/c", "a/B"] {
            assert_eq!(wrong.parse::<Service>(), Err(()), "{wrong}");
        }
    }
}
