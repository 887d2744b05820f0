//! Makes what is there equal to what was built, and carries out the plan's steps.
//!
//! Every child is applied by the server (server-side apply). One that was applied before and has not changed since, neither here nor there, is
//! left alone: a cluster at rest costs the API server nothing, and a status that controllers write costs it nothing more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::build::{self, Children, Redis, Workload};
use super::dereference::{Made, owned};
use super::keys::Keys;
use super::names::{FIRST_KEY, MANAGER};
use super::passwords::Passwords;
use super::plan::Decision;
use super::validate::Valid;
use super::watched::{Watched, cached};

/// Why something was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("{kind} {name}: {source}")]
    Api {
        /// The child's kind.
        kind: String,
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something of that name belongs to somebody else.
    #[error("{kind} {name} is there already and belongs to {owner}; delete it, or give this SipCluster another name")]
    Taken {
        /// The child's kind.
        kind: String,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// There can be no keys.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What was applied last.
#[derive(Default)]
pub struct Applied(Mutex<HashMap<Place, Last>>);

/// The SipCluster's uid, for another of its name may come after it; the child's kind and name.
type Place = (String, String, String);

/// What the API server made of it.
struct Last {
    /// A hash of what was applied.
    hash: u64,
    there: There,
}

/// An object without its status, which is its controller's. Whoever changes its spec gives it another generation; of metadata, what is applied counts.
#[derive(PartialEq)]
struct There {
    made: Made,
    /// Of a kind without generations.
    version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owners: Option<Vec<OwnerReference>>,
}

/// Applies.
pub struct Applier<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The caches.
    pub watched: &'a Watched,
    /// What was applied before.
    pub applied: &'a Applied,
    /// For whom.
    pub valid: &'a Valid,
}

impl Applier<'_> {
    /// Applies all children, in an order in which each finds what it needs.
    ///
    /// # Errors
    /// The first that could not be applied. Those after it are applied all the same if the API server has only found that one wrong, as the manifest has it:
    /// what was deleted is to be put back. Otherwise they are left for the next time.
    pub async fn children(&self, children: Children) -> Result<(), Error> {
        let Children {
            keys,
            redis_passwords,
            container_service,
            proxy_service,
            dispatcher,
            container_account,
            proxy_account,
            proxy_role,
            proxy_role_binding,
            container_budget,
            proxy_budget,
            container_policy,
            proxy_policy,
            redis,
            workload,
        } = children;
        let watched = self.watched;
        let mut refused = Refused::default();
        refused.or(self.apply(container_account, &watched.service_accounts).await)?;
        refused.or(self.apply(proxy_account, &watched.service_accounts).await)?;
        refused.or(self.apply(proxy_role, &watched.roles).await)?;
        refused.or(self.apply(proxy_role_binding, &watched.role_bindings).await)?;
        refused.or(self.apply(container_policy, &watched.policies).await)?;
        refused.or(self.apply(proxy_policy, &watched.policies).await)?;
        refused.or(self.apply(container_budget, &watched.budgets).await)?;
        refused.or(self.apply(proxy_budget, &watched.budgets).await)?;
        refused.or(self.apply(container_service, &watched.services).await)?;
        refused.or(self.apply(proxy_service, &watched.services).await)?;
        let dispatched = self.apply(dispatcher, &watched.services).await;
        let is_dispatched = dispatched.is_ok();
        refused.or(dispatched)?;
        // Now that none of those is a former SipCluster's of this name: a Secret of it would count as made, and be gone soon. One that the garbage collector
        // takes last of all may still be there; to tell whose it is takes a right to read Secrets, which the operator does not have.
        for number in keys {
            refused.or(self.key(number).await)?;
        }
        for number in redis_passwords {
            refused.or(self.redis_password(number).await)?;
        }
        if let Some(Redis {
            services,
            policy,
            budget,
            set,
        }) = redis
        {
            refused.or(self.apply(policy, &watched.policies).await)?;
            for service in services {
                refused.or(self.apply(service, &watched.services).await)?;
            }
            if let Some(budget) = budget {
                refused.or(self.apply(budget, &watched.budgets).await)?;
            }
            if let Some(set) = set {
                refused.or(self.apply(set, &watched.stateful_sets).await)?;
            }
        }
        // They would carry the address of a Service that there is not.
        if let Some(Workload { containers, proxies }) = workload.filter(|_| is_dispatched) {
            refused.or(self.apply(containers, &watched.stateful_sets).await)?;
            // One that was refused leaves them as they are.
            let account = self
                .applied
                .made(&self.valid.owner.uid, "ServiceAccount", &self.valid.names.proxies());
            if let Some(uid) = account.and_then(|account| account.uid) {
                let proxies = build::of_account(proxies, &uid);
                refused.or(self.apply(proxies, &watched.deployments).await)?;
            }
        }
        refused.0.map_or(Ok(()), Err)
    }

    /// Tells pods to leave.
    ///
    /// # Errors
    /// The API server refused.
    pub async fn leave(&self, decision: &Decision) -> Result<(), Error> {
        for pod in &decision.leave {
            self.delete(pod, None).await?;
        }
        Ok(())
    }

    /// Buries pods that are lost.
    ///
    /// # Errors
    /// The API server refused.
    pub async fn bury(&self, decision: &Decision) -> Result<(), Error> {
        for pod in &decision.bury {
            info!(pod = pod.name_any(), "nobody confirms its end: it is given up");
            self.delete(pod, Some(0)).await?;
        }
        Ok(())
    }

    async fn delete(&self, pod: &Pod, grace: Option<u32>) -> Result<(), Error> {
        let name = pod.name_any();
        let parameters = DeleteParams {
            grace_period_seconds: grace,
            // Not its successor of the same name.
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api::<Pod>().delete(&name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(failed::<Pod>(name, source)),
        }
    }

    /// Creates the Secret of a key, before a template names it.
    async fn key(&self, number: u32) -> Result<(), Error> {
        let names = &self.valid.names;
        let template = self.template(&names.containers());
        if template
            .is_some_and(|template| number == FIRST_KEY || Keys::of_template(&template).verifies.contains(&number))
        {
            return Ok(());
        }
        self.create(build::key(self.valid, number, random()?, random()?)).await
    }

    /// The same of a password of Redis.
    async fn redis_password(&self, number: u32) -> Result<(), Error> {
        let template = self.template(&self.valid.names.redis());
        if template.is_some_and(|template| Passwords::of_template(&template).accepts.contains(&number)) {
            return Ok(());
        }
        self.create(build::redis_password(self.valid, number, random()?)).await
    }

    /// Of our StatefulSet of this name: that of a former SipCluster goes, and its Secrets with it.
    fn template(&self, set: &str) -> Option<PodTemplateSpec> {
        let Valid { names, owner, .. } = self.valid;
        let set = owned(&self.watched.stateful_sets, &names.namespace, set, &owner.uid)?;
        Some(set.spec.as_ref()?.template.clone())
    }

    /// Creates a Secret. It is never written again, and not made anew if somebody deletes it: calls and running pods have what it held. So the
    /// operator need not be allowed to read Secrets at all.
    async fn create(&self, secret: Secret) -> Result<(), Error> {
        match self.api().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(source) => Err(failed::<Secret>(secret.name_any(), source)),
        }
    }

    /// Applies one child, unless it is as it was applied last. `C` is what is cached of its kind.
    async fn apply<K, C>(&self, object: K, cache: &Store<C>) -> Result<(), Error>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
        C: Resource<DynamicType = ()> + Clone + 'static,
    {
        let name = object.name_any();
        let kind = K::kind(&()).into_owned();
        let there = cached(cache, &self.valid.names.namespace, &name);
        match &there {
            Some(there) => self.is_ours(&kind, &name, there.as_ref())?,
            // What bears no label of ours is in no cache.
            None => {
                let there = self.api::<K>().get_opt(&name).await;
                if let Some(there) = there.map_err(|source| failed::<K>(name.clone(), source))? {
                    self.is_ours(&kind, &name, &there)?;
                }
            }
        }
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&object)
            .expect("an object is JSON")
            .hash(&mut hasher);
        let wanted = hasher.finish();
        let key = (self.valid.owner.uid.clone(), kind, name.clone());
        if there.is_some_and(|there| self.applied.is_same(&key, wanted, there.as_ref())) {
            return Ok(());
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let now = self.api::<K>().patch(&name, &parameters, &Patch::Apply(&object)).await;
        let now = now.map_err(|source| failed::<K>(name, source))?;
        self.applied.remember(key, wanted, &now);
        Ok(())
    }

    fn is_ours<C: Resource>(&self, kind: &str, name: &str, there: &C) -> Result<(), Error> {
        let owners = there.owner_references();
        if owners.iter().any(|owner| owner.uid == self.valid.owner.uid) {
            return Ok(());
        }
        let owner = owners
            .first()
            .map_or_else(|| "nobody".to_owned(), |owner| format!("{} {}", owner.kind, owner.name));
        Err(Error::Taken {
            kind: kind.into(),
            name: name.into(),
            owner,
        })
    }

    fn api<K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.valid.names.namespace)
    }
}

/// The first child that the API server has found wrong.
#[derive(Default)]
struct Refused(Option<Error>);

impl Refused {
    /// Keeps it; any other error is given back.
    fn or(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if error.is_about_the_manifest() => {
                self.0.get_or_insert(error);
                Ok(())
            }
            other => other,
        }
    }
}

impl Error {
    fn is_about_the_manifest(&self) -> bool {
        const UNPROCESSABLE: u16 = 422;
        matches!(self, Self::Api { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.code == UNPROCESSABLE))
    }
}

impl Applied {
    /// What the API server made of a child of this SipCluster, kind and name last.
    pub fn made(&self, uid: &str, kind: &str, name: &str) -> Option<Made> {
        let key = (uid.to_owned(), kind.to_owned(), name.to_owned());
        Some(self.lock().get(&key)?.there.made.clone())
    }

    /// What was applied, as a hash, and what the API server made of it.
    fn remember(&self, place: Place, hash: u64, now: &impl Resource) {
        let there = There::of(now);
        self.lock().insert(place, Last { hash, there });
    }

    fn is_same(&self, place: &Place, hash: u64, there: &impl Resource) -> bool {
        let applied = self.lock();
        applied
            .get(place)
            .is_some_and(|last| last.hash == hash && last.there == There::of(there))
    }

    /// Keeps what was applied for these SipClusters, by uid, and forgets the rest.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.lock().retain(|(uid, ..), _| uids.contains(uid));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Place, Last>> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

impl There {
    fn of(object: &impl Resource) -> Self {
        let metadata = object.meta();
        Self {
            made: Made::of(object),
            version: match metadata.generation {
                Some(_) => None,
                None => metadata.resource_version.clone(),
            },
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            owners: metadata.owner_references.clone(),
        }
    }
}

fn random() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}

fn failed<K: Resource<DynamicType = ()>>(name: String, source: kube::Error) -> Error {
    Error::Api {
        kind: K::kind(&()).into_owned(),
        name,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceAccount;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use kube::core::PartialObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    /// Whether an object that was applied is left alone, once its metadata in the cache have changed so.
    fn is_left_alone<K>(applied: &Value, change: &Value) -> bool
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let all = Applied::default();
        let place = || ("1-2-3".to_owned(), K::kind(&()).into_owned(), "demo".to_owned());
        let now: K = serde_json::from_value(json!({ "metadata": applied })).expect("an object");
        all.remember(place(), 1, &now);
        let mut metadata = applied.clone();
        for (field, value) in change.as_object().into_iter().flatten() {
            metadata[field] = value.clone();
        }
        let cached = json!({ "metadata": metadata });
        let cached: PartialObjectMeta<K> = serde_json::from_value(cached).expect("its metadata");
        assert!(!all.is_same(&place(), 2, &cached), "another is wanted");
        all.is_same(&place(), 1, &cached)
    }

    #[test]
    fn a_status_is_no_reason_to_apply_again_and_whatever_else_changes_is() {
        let owner = |uid: &str| json!([{ "apiVersion": "v1", "kind": "SipCluster", "name": "demo", "uid": uid, "controller": true }]);
        let applied = json!({
            "uid": "1", "generation": 2, "resourceVersion": "7", "labels": { "a": "b" }, "ownerReferences": owner("c"),
        });
        let is_left_alone = |change: &Value| is_left_alone::<PodDisruptionBudget>(&applied, change);
        assert!(is_left_alone(&json!({})));
        assert!(
            is_left_alone(&json!({ "resourceVersion": "8", "managedFields": [] })),
            "a status"
        );
        for change in [
            json!({ "generation": 3 }),
            json!({ "uid": "2" }),
            json!({ "labels": {} }),
            json!({ "labels": { "a": "c" } }),
            json!({ "annotations": { "c": "d" } }),
            json!({ "ownerReferences": owner("d") }),
            json!({ "ownerReferences": null }),
        ] {
            assert!(!is_left_alone(&change), "{change}");
        }
    }

    #[test]
    fn of_a_kind_without_generations_every_change_is_a_reason_to_apply_again() {
        let applied = json!({ "uid": "1", "resourceVersion": "7" });
        let is_left_alone = |change: &Value| is_left_alone::<ServiceAccount>(&applied, change);
        assert!(is_left_alone(&json!({})));
        assert!(!is_left_alone(&json!({ "resourceVersion": "8" })));
    }

    #[test]
    fn what_was_applied_for_a_former_cluster_of_the_same_name_is_none_of_its_successors() {
        let all = Applied::default();
        let object: ServiceAccount = serde_json::from_value(json!({ "metadata": { "uid": "7" } })).expect("an object");
        all.remember(("first".into(), "ServiceAccount".into(), "demo".into()), 1, &object);
        let knows = |uid| all.made(uid, "ServiceAccount", "demo").is_some();
        assert_eq!((knows("first"), knows("second")), (true, false));
        all.keep(&["second".to_owned()].into());
        assert!(!knows("first"), "it is gone");
    }

    #[test]
    fn what_the_api_server_finds_wrong_does_not_keep_the_others_from_being_applied() {
        let answered = |code: u16| {
            let status = json!({ "status": "Failure", "code": code });
            let status = serde_json::from_value(status).expect("a Status");
            Err(failed::<ServiceAccount>(
                code.to_string(),
                kube::Error::Api(Box::new(status)),
            ))
        };
        let mut refused = Refused::default();
        assert!(refused.or(answered(422)).is_ok());
        assert!(refused.or(Ok(())).is_ok());
        assert!(
            refused.or(answered(500)).is_err(),
            "who answers so may not answer the next"
        );
        let first = refused.0.expect("it is kept").to_string();
        assert!(first.contains("ServiceAccount 422"), "{first}");
    }
}
