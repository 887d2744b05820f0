//! Who asked the API server for what, by the log that it writes itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The operator.
    Operator,
    /// Those of Kubernetes.
    Controllers,
    /// What stands in for kubelets and the scheduler.
    Kubelets,
    /// The API server itself, and this measurement.
    Others,
}

/// Requests of some time.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// By who asked, and by verb and resource.
    pub counts: BTreeMap<(Who, String), u64>,
    /// Those of the operator that were refused, by verb, resource and status.
    pub refused: BTreeMap<String, u64>,
    /// Those of the operator in the second that had most.
    pub most: u64,
}

/// A line of the log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<Object>,
    response_status: Option<Response>,
    stage_timestamp: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Object {
    resource: Option<String>,
    subresource: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    code: Option<u16>,
}

/// How long the log is by now.
pub fn length(log: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(log).context("the audit log")?.len())
}

impl Requests {
    /// What was written to the log between two of its lengths.
    pub fn read(log: &Path, from: u64, to: u64) -> anyhow::Result<Self> {
        let mut file = File::open(log).context("the audit log")?;
        file.seek(SeekFrom::Start(from))?;
        Self::of(BufReader::new(std::io::Read::take(file, to - from)))
    }

    fn of(log: impl BufRead) -> anyhow::Result<Self> {
        let mut requests = Self::default();
        let mut seconds: BTreeMap<String, u64> = BTreeMap::new();
        for line in log.lines() {
            let line = line?;
            let Line {
                stage,
                verb,
                user,
                object_ref,
                response_status,
                stage_timestamp,
            } = serde_json::from_str(&line).with_context(|| line.clone())?;
            // One that goes on for long has another line at its end.
            if (stage == "ResponseStarted") != (verb == "watch") {
                continue;
            }
            let who = Who::of(&user.username);
            let what = format!("{verb} {}", object_ref.map_or_else(|| "pages".into(), Object::name));
            if who == Who::Operator {
                let second = stage_timestamp.split('.').next().unwrap_or_default();
                *seconds.entry(second.to_owned()).or_default() += 1;
                let code = response_status.and_then(|response| response.code).unwrap_or(0);
                if code >= 400 {
                    *requests.refused.entry(format!("{what}: {code}")).or_default() += 1;
                }
            }
            *requests.counts.entry((who, what)).or_default() += 1;
        }
        requests.most = seconds.into_values().max().unwrap_or(0);
        Ok(requests)
    }

    /// All of one.
    pub fn of_all(&self, who: Who) -> u64 {
        let theirs = self.counts.iter().filter(|((whose, _), _)| *whose == who);
        theirs.map(|(_, count)| count).sum()
    }

    /// All.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

impl Who {
    fn of(user: &str) -> Self {
        match user {
            "system:serviceaccount:sipcluster:sipcluster-operator" => Self::Operator,
            "system:serviceaccount:kube-system:kubelets" => Self::Kubelets,
            "system:kube-controller-manager" => Self::Controllers,
            // Each controller has its own.
            _ if user.starts_with("system:serviceaccount:kube-system:") => Self::Controllers,
            _ => Self::Others,
        }
    }
}

impl Object {
    fn name(self) -> String {
        match (self.resource, self.subresource) {
            (Some(resource), Some(subresource)) => format!("{resource}/{subresource}"),
            (Some(resource), None) => resource,
            _ => "pages".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once() {
        let line = |stage: &str, verb: &str, user: &str, code: u16| {
            let line = serde_json::json!({
                "stage": stage, "verb": verb, "user": { "username": user }, "objectRef": { "resource": "pods", "subresource": "status" },
                "responseStatus": { "code": code }, "stageTimestamp": "2026-11-29T19:00:00.123456Z",
            });
            format!("{line}\n")
        };
        let operator = "system:serviceaccount:sipcluster:sipcluster-operator";
        let log = [
            line("ResponseStarted", "watch", operator, 200),
            line("ResponseComplete", "watch", operator, 200),
            line("ResponseComplete", "patch", operator, 409),
            line(
                "ResponseComplete",
                "patch",
                "system:serviceaccount:kube-system:statefulset-controller",
                200,
            ),
        ];
        let requests = Requests::of(log.concat().as_bytes()).expect("a log");
        assert_eq!((requests.of_all(Who::Operator), requests.most), (2, 2));
        assert_eq!((requests.of_all(Who::Controllers), requests.total()), (1, 3));
        assert_eq!(requests.refused, [("patch pods/status: 409".to_owned(), 1)].into());
    }
}
