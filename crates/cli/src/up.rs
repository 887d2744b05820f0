//! `sipcluster up`: from the manifest to a running supervisor.

use std::path::Path;

use crds::SipCluster;

use crate::custom;
use crate::detach::{self, Audience, Side};
use crate::failure::Failure;
use crate::preflight::{self, Binaries};
use crate::redis;
use crate::state_dir::StateDir;
use crate::supervisor::Supervisor;

/// Starts the cluster; returns when it has been stopped, or works if it is to run in the background.
pub fn run(directory: &StateDir, file: &Path, detach: bool) -> Result<(), Failure> {
    let cluster = manifest(file)?;
    let binaries = Binaries::find()?;
    let lock = directory.claim()?;
    if let Err(failure) = preflight(&cluster) {
        directory.remove(lock);
        return Err(failure);
    }
    let mut audience = match if detach {
        detach::split(directory)?
    } else {
        Side::Supervisor(Audience::Terminal)
    } {
        Side::Supervisor(audience) => audience,
        Side::Command(answer) => {
            println!("{}", detach::await_answer(answer, directory)?);
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::system("the runtime", error))?;
    let outcome = runtime.block_on(Supervisor::run(directory, cluster, binaries, &mut audience));
    match &outcome {
        Ok(()) => directory.remove(lock),
        // The logs stay: they say why. Whoever hears of the failure finds the directory free.
        Err(failure) => {
            drop(lock);
            audience.failed(failure);
        }
    }
    outcome
}

/// The checked manifest of a file.
pub fn manifest(file: &Path) -> Result<SipCluster, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!(
            "{}: {error}; name a manifest with -f, such as examples/sipcluster.yaml",
            file.display()
        ))
    })?;
    let mut cluster =
        crds::parse(&text).map_err(|problems| Failure::problems(&format!("{}: ", file.display()), &problems))?;
    let external = cluster.spec.external_redis();
    if external.is_some_and(|external| external.secret.is_some()) {
        return Err(Failure::usage(format!(
            "{}: spec.redis.external.secret: there are no Secrets on one machine; write the URL instead (spec.redis.external.url)",
            file.display()
        )));
    }
    if let Some(external) = &mut cluster.spec.redis.external {
        if external.ca_secret.is_some() {
            return Err(Failure::usage(format!(
                "{}: spec.redis.external.caSecret: there are no Secrets on one machine; write the file's name instead (spec.redis.external.caFile)",
                file.display()
            )));
        }
        if let Some(ca) = &mut external.ca_file {
            // Parts are started elsewhere.
            *ca = std::path::absolute(file.parent().unwrap_or(Path::new("")).join(&*ca))
                .map_err(|error| Failure::system("spec.redis.external.caFile", error))?;
        }
    }
    if cluster.spec.keys != crds::Keys::default() {
        return Err(Failure::usage(format!(
            "{}: spec.keys: keys are rotated on Kubernetes only; leave it out: on one machine each start makes a key of its own",
            file.display()
        )));
    }
    if cluster.spec.redis_password() != crds::Managed::default().password {
        return Err(Failure::usage(format!(
            "{}: spec.redis.managed.password: the password is rotated on Kubernetes only; leave it out: on one machine Redis has none",
            file.display()
        )));
    }
    if let Some(custom) = &mut cluster.spec.application.custom {
        custom::prepare(custom, file)?;
    }
    Ok(cluster)
}

fn preflight(cluster: &SipCluster) -> Result<(), Failure> {
    if cluster.spec.external_redis().is_none() && !preflight::is_installed("redis-server") {
        return Err(redis::missing());
    }
    preflight::address_is_free(&cluster.spec.dispatcher)
}
