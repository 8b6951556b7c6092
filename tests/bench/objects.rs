//! Objects as a Kubernetes API server stores them: kinds, sizes and repetition of a real cluster, from a seed.
//!
//! A protobuf envelope (`k8s\0`), names with random tails, UIDs, timestamps, image digests, and `managedFields`, the
//! long and ever-same part that makes real objects compress about sevenfold.

use etcdbr_tests::load::Noise;

/// The objects of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    seed: u64,
}

const NAMESPACES: u64 = 180;
const APPS: [&str; 8] =
    ["checkout", "inventory", "gateway", "billing-worker", "search-indexer", "session-store", "mailer", "frontend"];

impl Objects {
    /// The same seed gives the same objects.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The key of object `i`.
    pub(crate) fn key(&self, i: u64) -> String {
        let mut noise = self.noise(i, 0);
        let (namespace, name) = (namespace(i), name(i, &mut noise));
        match i % 20 {
            0..8 => format!("/registry/pods/{namespace}/{name}"),
            8..11 => format!("/registry/events/{namespace}/{name}.{:016x}", noise.next_u64()),
            11..13 => format!("/registry/replicasets/{namespace}/{name}"),
            13 => format!("/registry/leases/{namespace}/{name}"),
            14..16 => format!("/registry/configmaps/{namespace}/{name}"),
            16 => format!("/registry/secrets/{namespace}/{name}"),
            17 => format!("/registry/services/endpoints/{namespace}/{name}"),
            _ => format!("/registry/example.com/deployments.apps.example.com/{namespace}/{name}"),
        }
    }

    /// What object `i` is after it was written `generation` times.
    pub(crate) fn value(&self, i: u64, generation: u64) -> Vec<u8> {
        let mut noise = self.noise(i, generation);
        match i % 20 {
            0..8 => stored("v1", "Pod", self.metadata(i, generation, POD_FIELDS, 2), pod(&mut noise)),
            8..11 => stored("events.k8s.io/v1", "Event", self.metadata(i, generation, "", 0), event(&mut noise)),
            11..13 => {
                stored("apps/v1", "ReplicaSet", self.metadata(i, generation, POD_FIELDS, 1), template(&mut noise))
            }
            13 => stored("coordination.k8s.io/v1", "Lease", self.metadata(i, generation, "", 0), lease(&mut noise)),
            14..16 => stored("v1", "ConfigMap", self.metadata(i, generation, "", 0), config(&mut noise)),
            16 => stored("v1", "Secret", self.metadata(i, generation, "", 0), noise.bytes(500)),
            17 => stored("v1", "Endpoints", self.metadata(i, generation, "", 0), endpoints(&mut noise)),
            _ => custom_resource(&self.metadata(i, generation, "", 0), &mut noise),
        }
    }

    fn noise(&self, i: u64, generation: u64) -> Noise {
        Noise::new(self.seed ^ i.wrapping_mul(0x9e37_79b9) ^ generation << 48)
    }

    /// Identity is the object's own in every generation; times and versions are not.
    fn metadata(&self, i: u64, generation: u64, fields: &str, managers: usize) -> Vec<u8> {
        let mut identity = self.noise(i, 0);
        let mut times = self.noise(i, generation);
        let name = name(i, &mut identity);
        let app = APPS[(i / 20 % APPS.len() as u64) as usize];
        let mut out = Vec::new();
        text(&mut out, 1, &name);
        text(&mut out, 3, &namespace(i));
        text(&mut out, 5, &uid(&mut identity));
        text(&mut out, 8, &timestamp(&mut identity));
        for (label, value) in [
            ("app.kubernetes.io/name", app),
            ("app.kubernetes.io/managed-by", "Helm"),
            ("app.kubernetes.io/part-of", "shop"),
            ("topology.kubernetes.io/region", "eu-central-1"),
            ("pod-template-hash", &name[name.len() - 5..]),
        ] {
            let mut pair = Vec::new();
            text(&mut pair, 1, label);
            text(&mut pair, 2, value);
            bytes(&mut out, 11, &pair);
        }
        text(&mut out, 12, &format!("checksum/config={}", hex(&mut identity, 4)));
        text(&mut out, 12, &format!("cni.projectcalico.org/containerID={}", hex(&mut times, 4)));
        // Certificates, tokens, base64: of what no compressor shrinks, objects have a few hundred bytes each.
        text(&mut out, 12, &format!("example.com/signature={}", hex(&mut times, 22)));
        text(&mut out, 13, &format!("ReplicaSet/{app}-{:08x}/{}", identity.next_u64() as u32, uid(&mut identity)));
        for manager in ["kube-controller-manager", "kubelet"].iter().take(managers) {
            let mut entry = Vec::new();
            text(&mut entry, 1, manager);
            text(&mut entry, 2, "Update");
            text(&mut entry, 4, &timestamp(&mut times));
            text(&mut entry, 7, fields);
            bytes(&mut out, 17, &entry);
        }
        out
    }
}

/// What a server-side apply notes of a pod, and keeps with it.
const POD_FIELDS: &str = concat!(
    r#"{"f:metadata":{"f:annotations":{".":{},"f:checksum/config":{}},"f:generateName":{},"f:labels":{".":{},"#,
    r#""f:app.kubernetes.io/name":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"\"}":{}}},"#,
    r#""f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"LOG_LEVEL\"}":{".":{},"#,
    r#""f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:livenessProbe":{".":{},"f:httpGet":{".":{},"#,
    r#""f:path":{},"f:port":{},"f:scheme":{}},"f:periodSeconds":{}},"f:resources":{".":{},"f:limits":{".":{},"#,
    r#""f:cpu":{},"f:memory":{}}},"f:terminationMessagePath":{}}},"f:dnsPolicy":{},"f:restartPolicy":{}}}"#
);

fn namespace(i: u64) -> String {
    format!("team-{:03}", i / 7 % NAMESPACES)
}

fn name(i: u64, noise: &mut Noise) -> String {
    format!("{}-{i:07}-{:05x}", APPS[(i / 20 % APPS.len() as u64) as usize], noise.next_u64() & 0xf_ffff)
}

fn uid(noise: &mut Noise) -> String {
    let (a, b) = (noise.next_u64(), noise.next_u64());
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48, b & 0xffff_ffff_ffff)
}

/// `words` times 16 random digits.
fn hex(noise: &mut Noise, words: usize) -> String {
    std::iter::repeat_with(|| format!("{:016x}", noise.next_u64())).take(words).collect()
}

fn timestamp(noise: &mut Noise) -> String {
    let n = noise.next_u64();
    format!(
        "2026-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        1 + n % 12,
        1 + n / 16 % 28,
        n / 512 % 24,
        n >> 16 & 31,
        n >> 24 & 31
    )
}

fn pod(noise: &mut Noise) -> Vec<u8> {
    let mut out = template(noise);
    text(&mut out, 10, &format!("node-{:03}.eu-central-1.compute.example", noise.next_u64() % 400));
    for kind in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        let mut condition = Vec::new();
        text(&mut condition, 1, kind);
        text(&mut condition, 2, "True");
        text(&mut condition, 4, &timestamp(noise));
        bytes(&mut out, 12, &condition);
    }
    let address = noise.next_u64();
    text(&mut out, 13, &format!("10.{}.{}.{}", address & 255, address >> 8 & 255, address >> 16 & 255));
    text(&mut out, 14, &format!("containerd://{}", hex(noise, 4)));
    out
}

fn template(noise: &mut Noise) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, container) in ["app", "istio-proxy"].into_iter().enumerate() {
        let mut spec = Vec::new();
        text(&mut spec, 1, container);
        text(&mut spec, 2, &format!("registry.example.com/shop/{container}@sha256:{}", hex(noise, 4)));
        for (name, value) in [("LOG_LEVEL", "info"), ("OTEL_EXPORTER", "http://otel-collector.observability:4317")] {
            text(&mut spec, 7, name);
            text(&mut spec, 7, value);
        }
        text(&mut spec, 8, "{\"limits\":{\"cpu\":\"500m\",\"memory\":\"512Mi\"},\"requests\":{\"cpu\":\"100m\"}}");
        text(&mut spec, 9, &format!("kube-api-access-{:05x}", noise.next_u64() & 0xf_ffff));
        text(&mut spec, 9, "/var/run/secrets/kubernetes.io/serviceaccount");
        text(
            &mut spec,
            11,
            "{\"httpGet\":{\"path\":\"/healthz\",\"port\":8080,\"scheme\":\"HTTP\"},\"periodSeconds\":10}",
        );
        bytes(&mut out, 2 + at as u8, &spec);
    }
    text(&mut out, 5, "Always");
    text(&mut out, 6, "ClusterFirst");
    out
}

fn event(noise: &mut Noise) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, "BackOff");
    text(&mut out, 2, &format!("Back-off restarting failed container app in pod {}", uid(noise)));
    text(&mut out, 3, &timestamp(noise));
    text(&mut out, 4, &timestamp(noise));
    text(&mut out, 5, &format!("kubelet/node-{:03}.eu-central-1.compute.example", noise.next_u64() % 400));
    out
}

fn lease(noise: &mut Noise) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &format!("node-{:03}.eu-central-1.compute.example", noise.next_u64() % 400));
    text(&mut out, 2, &format!("{}.{:06}", timestamp(noise), noise.next_u64() % 1_000_000));
    out
}

fn config(noise: &mut Noise) -> Vec<u8> {
    let mut out = Vec::new();
    let lines = 20 + noise.next_u64() % 160;
    for line in 0..lines {
        let value = noise.next_u64() % 4_000;
        text(&mut out, 1, &format!("feature.section-{}.option-{line}.timeout-ms = {value}\n", line % 9));
    }
    out
}

fn endpoints(noise: &mut Noise) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..4 + noise.next_u64() % 24 {
        let address = noise.next_u64();
        text(&mut out, 1, &format!("10.{}.{}.{}", address & 255, address >> 8 & 255, address >> 16 & 255));
        text(&mut out, 2, &format!("node-{:03}.eu-central-1.compute.example", address >> 24 & 255));
        text(&mut out, 4, "Pod");
        text(&mut out, 4, &uid(noise));
    }
    out
}

/// Custom resources are stored as JSON.
fn custom_resource(metadata: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut out = String::from(r#"{"apiVersion":"apps.example.com/v1","kind":"Deployment","metadata":""#);
    out += &String::from_utf8_lossy(metadata).replace(|c: char| c.is_control() || c == '"', "");
    out += r#"","spec":{"rules":["#;
    for rule in 0..8 + noise.next_u64() % 24 {
        let port = noise.next_u64() % 30_000;
        out += &format!(
            r#"{{"host":"rule-{rule}.example.com","service":{{"name":"backend","port":{port}}},"tls":true}},"#
        );
    }
    out += r#"{}]},"status":{"observedGeneration":1,"conditions":[{"type":"Available","status":"True"}]}}"#;
    out.into_bytes()
}

/// The envelope of whatever the API server stores as protobuf.
fn stored(version: &str, kind: &str, metadata: Vec<u8>, spec: Vec<u8>) -> Vec<u8> {
    let mut meaning = Vec::new();
    text(&mut meaning, 1, version);
    text(&mut meaning, 2, kind);
    let mut object = Vec::new();
    bytes(&mut object, 1, &metadata);
    bytes(&mut object, 2, &spec);
    let mut out = b"k8s\0".to_vec();
    bytes(&mut out, 1, &meaning);
    bytes(&mut out, 2, &object);
    out
}

fn text(out: &mut Vec<u8>, field: u8, value: &str) {
    bytes(out, field, value.as_bytes());
}

/// A length-delimited field, as protobuf has it (fields above 15 in one byte less than they would take).
fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    let mut len = value.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(value);
}
