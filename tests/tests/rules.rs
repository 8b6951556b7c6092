//! The alerts in `deploy/prometheus-rule.yaml`: Prometheus takes them, each fires when it should and else is silent, each
//! has its section in the manual, and the figures that they ask for are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::scenario::Site;
use etcdbr_tests::sidecar::Sidecar;
use etcdbr_tests::tools::{tool_dir, workspace};
use serde_json::{Value, json};

use crate::deploy::objects;
use crate::metrics::{address, ask, shown};

const RULE_FIELDS: [&str; 5] = ["alert", "expr", "for", "labels", "annotations"];
const SEVERITIES: [&str; 2] = ["critical", "warning"];
/// Where the annotations lead.
const RUNBOOK: &str = "https://example.com/etcdbr/docs/operations.md#";

/// What a sidecar shows that is well, each minute for three hours.
const WELL: &[(&str, &str)] = &[
    ("etcdbr_build_info{version=\"1\"}", "1x180"),
    ("etcdbr_snapshot_latest_revision{kind=\"Incr\"}", "9+1x180"),
    ("etcdbr_durable_age_seconds", "7x180"),
    ("etcdbr_lag_revisions", "3x180"),
    ("etcdbr_waiting_bytes", "1000x180"),
    ("etcdbr_waiting_limit_bytes", "64000x180"),
    ("etcdbr_retries_total{what=\"delta\"}", "2x180"),
    ("etcdbr_snapshot_duration_seconds_count{kind=\"Full\",succeeded=\"false\"}", "1x180"),
    ("etcdbr_snapshot_required{kind=\"Full\"}", "0x180"),
    ("etcdbr_lineage_birth_timestamp_seconds", "-9000x180"),
    ("etcdbr_fulls_total{reason=\"first\"}", "0x180"),
    ("etcdbr_upkeep_failures_total{chore=\"sweep\"}", "3x180"),
    ("etcdbr_hashkv_stall_seconds", "0.2x180"),
    ("etcdbr_hashkv_timestamp_seconds", "0x180"),
    ("etcdbr_leader", "1x180"),
    // Its neighbour's.
    ("etcdbr_leader{instance=\"b\"}", "0x180"),
    ("etcdbr_last_sweep_timestamp_seconds", "0+60x180"),
    ("etcdbr_snapshot_gc_total{kind=\"Incr\",succeeded=\"true\"}", "0+9x180"),
    ("etcdbr_snapshot_gc_total{kind=\"Full\",succeeded=\"false\"}", "0+1x180"),
];

/// What is shown otherwise (or, where it is empty, not at all), and after how many minutes which alerts fire.
type Case = (&'static [(&'static str, &'static str)], &'static [(u32, &'static [&'static str])]);

const CASES: &[(&str, &[Case])] = &[
    (
        "EtcdbrBehind",
        &[
            (
                &[("etcdbr_durable_age_seconds", "0+60x180")],
                &[(3, &[]), (5, &["EtcdbrBehind"]), (60, &["EtcdbrBehind"])],
            ),
            (&[("etcdbr_durable_age_seconds", "110x180")], &[(60, &[])]),
            // A quiet cluster.
            (&[("etcdbr_durable_age_seconds", "130x180"), ("etcdbr_lag_revisions", "0x180")], &[(60, &[])]),
        ],
    ),
    (
        "EtcdbrBlind",
        &[
            (
                &[("etcdbr_durable_age_seconds", "0+60x180"), ("etcdbr_lag_revisions", "0x180")],
                &[(10, &[]), (12, &["EtcdbrBlind"])],
            ),
            (&[("etcdbr_durable_age_seconds", "590x180"), ("etcdbr_lag_revisions", "0x180")], &[(60, &[])]),
        ],
    ),
    (
        "EtcdbrAbsent",
        &[
            // Gone after half an hour: what it said last counts for five minutes.
            (&[("etcdbr_build_info{version=\"1\"}", "1x30 _x150")], &[(40, &[]), (50, &["EtcdbrAbsent"])]),
            (&[("etcdbr_build_info{version=\"1\"}", "1x30 _x10 1x140")], &[(41, &[]), (60, &[])]),
        ],
    ),
    (
        "EtcdbrNothingDurable",
        &[
            (
                &[
                    ("etcdbr_snapshot_latest_revision{kind=\"Incr\"}", ""),
                    ("etcdbr_durable_age_seconds", ""),
                    ("etcdbr_lag_revisions", ""),
                ],
                &[(29, &[]), (31, &["EtcdbrNothingDurable"])],
            ),
            // It stands by: the neighbour works.
            (
                &[
                    ("etcdbr_snapshot_latest_revision{kind=\"Incr\"}", ""),
                    ("etcdbr_durable_age_seconds", ""),
                    ("etcdbr_lag_revisions", ""),
                    ("etcdbr_leader", "0x180"),
                    ("etcdbr_leader{instance=\"b\"}", "1x180"),
                ],
                &[(60, &[])],
            ),
            // A first full of twenty minutes.
            (&[("etcdbr_snapshot_latest_revision{kind=\"Incr\"}", "_x20 9x160")], &[(19, &[]), (60, &[])]),
        ],
    ),
    (
        "EtcdbrNoLeader",
        &[
            (&[("etcdbr_leader", "1x10 0x170")], &[(12, &[]), (14, &["EtcdbrNoLeader"])]),
            // An election, and the neighbour works.
            (
                &[("etcdbr_leader", "1x10 0x170"), ("etcdbr_leader{instance=\"b\"}", "0x12 1x170")],
                &[(12, &[]), (14, &[]), (60, &[])],
            ),
        ],
    ),
    (
        "EtcdbrWaitingFillsUp",
        &[
            (&[("etcdbr_waiting_bytes", "1000x10 40000x170")], &[(10, &[]), (13, &["EtcdbrWaitingFillsUp"])]),
            (&[("etcdbr_waiting_bytes", "31000x180")], &[(60, &[])]),
            // One peak.
            (&[("etcdbr_waiting_bytes", "1000x10 60000 1000x170")], &[(11, &[]), (13, &[])]),
        ],
    ),
    (
        "EtcdbrUploadsRetried",
        &[
            (
                &[("etcdbr_retries_total{what=\"delta\"}", "0x10 0+4x170")],
                &[(11, &[]), (25, &["EtcdbrUploadsRetried"])],
            ),
            // A store that was down for two minutes.
            (&[("etcdbr_retries_total{what=\"delta\"}", "0x10 0+4x2 8x168")], &[(15, &[]), (25, &[])]),
        ],
    ),
    (
        "EtcdbrFullsFail",
        &[
            (
                &[(
                    "etcdbr_snapshot_duration_seconds_count{kind=\"Full\",succeeded=\"false\"}",
                    "0x10 1x10 2x10 3x10 4x10 5x130",
                )],
                &[(25, &[]), (59, &["EtcdbrFullsFail"]), (150, &[])],
            ),
            (
                &[("etcdbr_snapshot_duration_seconds_count{kind=\"Full\",succeeded=\"false\"}", "0x10 2x170")],
                &[(15, &[]), (60, &[])],
            ),
        ],
    ),
    (
        "EtcdbrFullOverdue",
        &[
            (&[("etcdbr_snapshot_required{kind=\"Full\"}", "1x180")], &[(59, &[]), (61, &["EtcdbrFullOverdue"])]),
            // One each hour, of half an hour.
            (&[("etcdbr_snapshot_required{kind=\"Full\"}", "0x30 1x30 0x30 1x30 0x60")], &[(50, &[]), (119, &[])]),
        ],
    ),
    (
        "EtcdbrNewLineage",
        &[
            (
                &[("etcdbr_lineage_birth_timestamp_seconds", "-9000x30 1800x150")],
                &[(30, &[]), (32, &["EtcdbrNewLineage"]), (89, &["EtcdbrNewLineage"]), (91, &[])],
            ),
            // The first one of a cluster.
            (
                &[
                    ("etcdbr_lineage_birth_timestamp_seconds", "0x180"),
                    ("etcdbr_fulls_total{reason=\"first\"}", "1x180"),
                ],
                &[(1, &[]), (30, &[])],
            ),
        ],
    ),
    (
        "EtcdbrUpkeepFails",
        &[
            // Once in ten minutes: more is not tried.
            (
                &[("etcdbr_upkeep_failures_total{chore=\"sweep\"}", "0x10 0+0.1x170")],
                &[(60, &[]), (100, &["EtcdbrUpkeepFails"])],
            ),
            // A store that was down for two minutes.
            (&[("etcdbr_upkeep_failures_total{chore=\"sweep\"}", "0x10 7x170")], &[(30, &[]), (100, &[])]),
        ],
    ),
    (
        "EtcdbrHashKvStall",
        &[
            (&[("etcdbr_hashkv_stall_seconds", "1.5x180")], &[(5, &["EtcdbrHashKvStall"])]),
            (&[("etcdbr_hashkv_stall_seconds", "0.9x180")], &[(5, &[])]),
            // Yesterday's.
            (
                &[("etcdbr_hashkv_stall_seconds", "1.5x180"), ("etcdbr_hashkv_timestamp_seconds", "-86400x180")],
                &[(5, &[])],
            ),
        ],
    ),
    (
        "EtcdbrSweepOverdue",
        &[
            (&[("etcdbr_last_sweep_timestamp_seconds", "0x180")], &[(124, &[]), (127, &["EtcdbrSweepOverdue"])]),
            (&[("etcdbr_last_sweep_timestamp_seconds", "3600x180")], &[(170, &[])]),
            // Whoever stands by sweeps nothing.
            (
                &[
                    ("etcdbr_last_sweep_timestamp_seconds", "0x180"),
                    ("etcdbr_leader", "0x180"),
                    ("etcdbr_leader{instance=\"b\"}", "1x180"),
                ],
                &[(170, &[])],
            ),
        ],
    ),
    (
        "EtcdbrNothingRemoved",
        &[
            (
                &[("etcdbr_snapshot_gc_total{kind=\"Incr\",succeeded=\"true\"}", "5x180")],
                &[(59, &[]), (63, &["EtcdbrNothingRemoved"])],
            ),
            // There is nothing to remove.
            (
                &[
                    ("etcdbr_snapshot_gc_total{kind=\"Incr\",succeeded=\"true\"}", "5x180"),
                    ("etcdbr_snapshot_gc_total{kind=\"Full\",succeeded=\"false\"}", "5x180"),
                ],
                &[(170, &[])],
            ),
        ],
    ),
];

fn resource() -> Value {
    let all = objects(&workspace().join("deploy/prometheus-rule.yaml"));
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

fn rules() -> Vec<Value> {
    let groups = resource()["spec"]["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn name(rule: &Value) -> &str {
    rule["alert"].as_str().unwrap()
}

/// The rules as Prometheus reads them without its operator, in `dir`.
fn plain_rules(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("rules.yaml");
    // JSON is YAML.
    std::fs::write(&file, resource()["spec"].to_string()).unwrap();
    file
}

/// What promtool says of a file, and whether it is content.
fn promtool(verb: &str, file: &Path) -> (bool, String) {
    let run = Command::new(tool_dir("promtool").join("promtool")).args([verb, "rules"]).arg(file).output().unwrap();
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (run.status.success(), said)
}

#[test]
fn the_operator_takes_the_shape() {
    let resource = resource();
    assert_eq!(
        (&resource["apiVersion"], &resource["kind"]),
        (&json!("monitoring.coreos.com/v1"), &json!("PrometheusRule"))
    );
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&resource), ["apiVersion", "kind", "metadata", "spec"]);
    assert_eq!(fields(&resource["metadata"]), ["labels", "name", "namespace"]);
    assert_eq!(fields(&resource["spec"]), ["groups"]);
    for group in resource["spec"]["groups"].as_array().unwrap() {
        assert_eq!(fields(group), ["name", "rules"]);
    }
    for rule in rules() {
        assert!(fields(&rule).iter().all(|field| RULE_FIELDS.contains(&field.as_str())), "{rule}");
        assert_eq!(fields(&rule["labels"]), ["severity"], "{rule}");
        assert!(SEVERITIES.contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        assert_eq!(fields(&rule["annotations"]), ["description", "runbook_url", "summary"], "{rule}");
        for text in rule["annotations"].as_object().unwrap().values() {
            assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
    }
}

#[test]
fn prometheus_takes_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let file = plain_rules(dir.path());
    let (taken, said) = promtool("check", &file);
    assert!(taken && said.contains(&format!("{} rules found", rules().len())), "{said}");
    let wrong = std::fs::read_to_string(&file).unwrap().replace("humanizeDuration", "humaniseDuration");
    std::fs::write(&file, wrong).unwrap();
    assert!(!promtool("check", &file).0, "a template with a function that there is not is taken");
}

#[test]
fn each_alert_fires_when_it_should_and_else_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    plain_rules(dir.path());
    let tests: Vec<Value> = CASES
        .iter()
        .flat_map(|(alert, cases)| cases.iter().zip(1..).map(move |(case, number)| (alert, number, case)))
        .map(|(alert, number, (other, expected))| {
            let mut series: BTreeMap<&str, &str> = WELL.iter().copied().collect();
            for (name, values) in *other {
                assert!(series.insert(name, values).is_some(), "{name} is not what a sidecar shows that is well");
            }
            json!({
                "name": format!("{alert} {number}"),
                "interval": "1m",
                "input_series": series.iter().filter(|(_, values)| !values.is_empty())
                    .map(|(name, values)| json!({"series": name, "values": values})).collect::<Vec<_>>(),
                "promql_expr_test": expected.iter().map(|(minutes, alerts)| json!({
                    "expr": "count by (alertname) (ALERTS{alertstate=\"firing\"})",
                    "eval_time": format!("{minutes}m"),
                    "exp_samples": alerts.iter()
                        .map(|alert| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1})).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let file = dir.path().join("test.yaml");
    let document = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
    std::fs::write(&file, document.to_string()).unwrap();
    let (passed, said) = promtool("test", &file);
    assert!(passed, "{said}");
}

#[test]
fn each_alert_is_tried_and_has_its_section_in_the_manual() {
    let manual = std::fs::read_to_string(workspace().join("docs/operations.md")).unwrap();
    let tried: BTreeSet<&str> = CASES.iter().map(|(alert, _)| *alert).collect();
    for rule in rules() {
        let alert = name(&rule);
        assert_eq!(rule["annotations"]["runbook_url"], format!("{RUNBOOK}{}", alert.to_lowercase()));
        assert_eq!(manual.matches(&format!("\n### {alert}\n")).count(), 1, "docs/operations.md has no section {alert}");
        assert!(tried.contains(alert), "{alert} is not tried");
    }
    assert_eq!(tried.len(), rules().len(), "an alert is tried that there is not");
    for (alert, cases) in CASES {
        let fires = |case: &&Case| case.1.iter().any(|(_, alerts)| alerts.contains(alert));
        assert!(cases.iter().any(|case| fires(&case)), "{alert} is never seen to fire");
        assert!(cases.iter().any(|case| !fires(&case)), "{alert} is never seen to be silent");
    }
    let sections = manual.lines().filter(|line| line.starts_with("### Etcdbr")).count();
    assert_eq!(sections, rules().len(), "a section of an alert that there is not");
}

/// Every figure that an expression asks for, with the labels that it must have.
fn asked_for(expr: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in expr.match_indices("etcdbr_") {
        let rest = &expr[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let labels =
            rest[end..].strip_prefix('{').and_then(|labels| labels.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| label.trim().to_owned());
        found.push((rest[..end].to_owned(), labels.collect()));
    }
    found
}

fn shows(text: &str, name: &str, labels: &[String]) -> bool {
    text.lines().any(|line| {
        let of_name = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        of_name && labels.iter().all(|label| line.contains(label.as_str()))
    })
}

/// Prometheus reads `text`, which it would do on a scrape: as the samples of one time.
fn assert_is_read(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (file, blocks) = (dir.path().join("metrics"), dir.path().join("blocks"));
    let timed = |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1700000000\n") };
    std::fs::write(&file, text.lines().map(timed).collect::<String>()).unwrap();
    let mut promtool = Command::new(tool_dir("promtool").join("promtool"));
    let run = promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).args([&file, &blocks]).output().unwrap();
    assert!(run.status.success() && blocks.exists(), "{}\n{text}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rules_ask_for_is_shown() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let flags = ["--metrics-addr=127.0.0.1:0", "--leader-only", "--garbage-collection-period=2s"];
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &flags);
    let addr = address(&mut sidecar).await;
    sidecar.opened(1).await;
    client.put("/a", "x", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    shown(&addr, "etcdbr_last_sweep_timestamp_seconds").await;
    let (_, text) = ask(&addr, "GET", "/metrics").await;
    assert_is_read(&text);
    for rule in rules() {
        let asked = asked_for(rule["expr"].as_str().unwrap());
        assert!(!asked.is_empty(), "{rule}");
        for (figure, labels) in asked {
            assert!(shows(&text, &figure, &labels), "{} asks for {figure} {labels:?}, not in\n{text}", name(&rule));
        }
    }
    for (series, _) in WELL {
        let (figure, labels) = asked_for(series).remove(0);
        let labels: Vec<_> = labels
            .into_iter()
            .filter(|label| !label.starts_with("version") && !label.starts_with("instance"))
            .collect();
        assert!(shows(&text, &figure, &labels), "no sidecar shows {series}:\n{text}");
    }
    sidecar.stop();
}
