//! The Kubernetes operator of `SipCluster` resources; its room is kept.
//!
//! It will reconcile in named steps, only some of which may use the client: dereference, validate, plan, build, apply, update status. The
//! step in the middle exists: `ucf::plan` computes from spec and observation what comes next, one member at a time through named gates, for
//! `sipcluster up` today and for the operator then. `crds` holds the types and the generated CustomResourceDefinition.
