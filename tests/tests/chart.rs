//! What the chart carries besides templates: its dashboard asks for metrics that there are.

use std::collections::BTreeSet;

use anyhow::ensure;
use tests::interop::process::source_root;

/// Names that begin with the product's, as long as they go on.
fn metrics(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("sipcluster_").map(|(at, _)| &text[at..]);
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    starts
        .map(|name| name.split(|c| !is_part(c)).next().unwrap_or(name))
        .collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_are_documented() -> anyhow::Result<()> {
    let read = |path| std::fs::read_to_string(source_root().join(path));
    let (dashboard, guide) = (
        read("charts/sipcluster/dashboards/sipcluster.json")?,
        read("docs/metrics.md")?,
    );
    let panels: serde_json::Value = serde_json::from_str(&dashboard)?;
    let asked = metrics(&dashboard);
    ensure!(
        asked.len() > panels["panels"].as_array().map_or(0, Vec::len),
        "a metric a panel at least: {asked:?}"
    );
    for name in asked {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        ensure!(
            guide.contains(&format!("| `{name}` |")),
            "{name} is not in docs/metrics.md"
        );
    }
    Ok(())
}
