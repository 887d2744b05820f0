//! One replica works at a time: the holder of a Lease (`coordination.k8s.io/v1`).
//!
//! The holder renews it; another may take it once it has been seen unchanged for its duration, on the watcher's own clock. Every change names
//! the resource version that it was based on, so two cannot take it at once. Whoever cannot renew in time ends: its successor may be working.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::time::Instant;
use tracing::{debug, info};

/// The Lease's name.
pub const LEASE: &str = "sipcluster-operator";

/// How long a Lease holds unrenewed.
const HOLDS: Duration = Duration::from_secs(6);

/// How often it is renewed, or looked at.
const RENEW: Duration = Duration::from_secs(2);

/// The Lease as this replica sees it.
pub struct Leadership {
    api: Api<Lease>,
    name: String,
    /// The resource version of the Lease when it was last seen to change, and when that was.
    seen: Option<(String, Instant)>,
}

impl Leadership {
    /// In `namespace`, under this replica's `name`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.into(),
            seen: None,
        }
    }

    /// Waits until this replica holds the Lease.
    pub async fn acquire(&mut self) {
        let mut said = false;
        loop {
            let taken = tokio::time::timeout(HOLDS, self.take()).await;
            match taken.unwrap_or(Ok(false)) {
                Ok(true) => {
                    info!(lease = LEASE, "leading");
                    return;
                }
                Ok(false) if !said => {
                    info!(lease = LEASE, "another replica leads; waiting");
                    said = true;
                }
                Ok(false) => {}
                Err(error) => debug!(%error, "the Lease cannot be taken"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Renews until that has failed for so long that another may lead.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < HOLDS - RENEW {
            tokio::time::sleep(RENEW).await;
            let begun = Instant::now();
            // It is over before another may take it.
            match tokio::time::timeout_at(renewed + HOLDS - RENEW / 2, self.take()).await {
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => debug!(%error, "the Lease cannot be renewed"),
                Err(_) => debug!("the Lease cannot be renewed in time"),
            }
        }
    }

    /// Lets another replica take over at once.
    pub async fn release(&mut self) {
        if let Ok(Some(mut lease)) = self.api.get_opt(LEASE).await
            && holder(&lease) == Some(&self.name)
        {
            lease.spec = None;
            let _ = self.api.replace(LEASE, &PostParams::default(), &lease).await;
        }
    }

    /// Whether this replica holds the Lease from now on.
    async fn take(&mut self) -> Result<bool, Error> {
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            return refused(self.api.create(&PostParams::default(), &self.renewed(None)).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let is_free = holder(&lease).is_none_or(|holder| *holder == self.name) || since.elapsed() > HOLDS;
        if !is_free {
            return Ok(false);
        }
        let mine = self.renewed(Some(lease));
        refused(self.api.replace(LEASE, &PostParams::default(), &mine).await)
    }

    fn renewed(&self, lease: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let (metadata, before) = match lease {
            Some(lease) => (lease.metadata, lease.spec.unwrap_or_default()),
            None => (
                ObjectMeta {
                    name: Some(LEASE.into()),
                    ..ObjectMeta::default()
                },
                LeaseSpec::default(),
            ),
        };
        let goes_on = before.holder_identity.as_deref() == Some(&self.name);
        let transitions = before.lease_transitions.unwrap_or_default();
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(HOLDS.as_secs() as i32),
                acquire_time: before.acquire_time.filter(|_| goes_on).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions + i32::from(!goes_on)),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// Whether a change was taken; one that another's change has overtaken was not.
fn refused(result: Result<Lease, Error>) -> Result<bool, Error> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
