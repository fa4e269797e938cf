//! What is counted, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests by path.
const PATHS: [&str; 6] = ["auth", "attest", "resource", "healthz", "metrics", "other"];
/// And by what came of them.
const CLASSES: [&str; 3] = ["granted", "refused", "failed"];
/// Evidence by verdict.
const VERDICTS: [&str; 4] = ["affirmed", "test-passed", "not-met", "rejected"];

/// Counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; CLASSES.len()]; PATHS.len()],
    verdicts: [AtomicU64; VERDICTS.len()],
    /// Connections that there was no place for.
    pub(super) turned_away: AtomicU64,
    /// Connections that broke, or whose headers did not come in time.
    pub(super) broken: AtomicU64,
    /// Requests of peers that asked too often.
    pub(super) throttled: AtomicU64,
}

/// What is so at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gauges {
    pub(super) sessions: u64,
    pub(super) connections: usize,
}

impl Metrics {
    pub(super) fn request(&self, path: &str, status: u16) {
        let class = match status {
            ..400 => 0,
            400..500 => 1,
            500.. => 2,
        };
        let path = PATHS.iter().position(|it| *it == path).unwrap_or(PATHS.len() - 1);
        if let Some(counter) = self.requests.get(path).and_then(|classes| classes.get(class)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn verdict(&self, verdict: &str) {
        if let Some(counter) = VERDICTS.iter().zip(&self.verdicts).find(|(it, _)| **it == verdict) {
            counter.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn text(&self, gauges: Gauges) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        };
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        head(&mut text, "tenure_kbs_requests_total", "counter", "Requests by path and by what came of them.");
        for (path, classes) in PATHS.iter().zip(&self.requests) {
            for (class, counter) in CLASSES.iter().zip(classes) {
                let labels = format!("path=\"{path}\",outcome=\"{class}\"");
                let _ = writeln!(text, "tenure_kbs_requests_total{{{labels}}} {}", value(counter));
            }
        }
        head(&mut text, "tenure_kbs_appraisals_total", "counter", "Evidence that was judged, by verdict.");
        for (verdict, counter) in VERDICTS.iter().zip(&self.verdicts) {
            let _ = writeln!(text, "tenure_kbs_appraisals_total{{verdict=\"{verdict}\"}} {}", value(counter));
        }
        for (name, help, counter) in [
            ("turned_away", "Connections that there was no place for.", &self.turned_away),
            ("broken", "Connections that broke or were too slow.", &self.broken),
            ("throttled", "Requests of peers that asked too often.", &self.throttled),
        ] {
            let name = format!("tenure_kbs_{name}_total");
            head(&mut text, &name, "counter", help);
            let _ = writeln!(text, "{name} {}", value(counter));
        }
        head(&mut text, "tenure_kbs_sessions", "gauge", "Sessions that are stored.");
        let _ = writeln!(text, "tenure_kbs_sessions {}", gauges.sessions);
        head(&mut text, "tenure_kbs_connections", "gauge", "Connections that are open.");
        let _ = writeln!(text, "tenure_kbs_connections {}", gauges.connections);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_names() {
        let metrics = Metrics::default();
        metrics.request("attest", 200);
        metrics.request("attest", 401);
        metrics.request("nonsense", 404);
        metrics.verdict("not-met");
        let text = metrics.text(Gauges { sessions: 3, connections: 1 });
        for line in [
            "tenure_kbs_requests_total{path=\"attest\",outcome=\"granted\"} 1",
            "tenure_kbs_requests_total{path=\"attest\",outcome=\"refused\"} 1",
            "tenure_kbs_requests_total{path=\"other\",outcome=\"refused\"} 1",
            "tenure_kbs_appraisals_total{verdict=\"not-met\"} 1",
            "tenure_kbs_sessions 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
