//! What was proven of a backup, in words and as JSON.

use etcdbr_engine::format::HashKvAnswer;
use etcdbr_engine::replay::{HashKvProof, Integrity, Proof, TreeProof};
use serde_json::{Value, json};

/// One or two lines, each with its indent and line break.
pub(crate) fn text(proof: &Proof) -> String {
    let mut proven = match proof.integrity {
        Integrity::Authenticated => vec!["every byte authenticated", "SHA-256 of the image"],
        Integrity::Checksums => vec!["checksums (the backup is not encrypted)", "SHA-256 of the image"],
        Integrity::Sha256Trailer => vec!["SHA-256 at the snapshot's end"],
        Integrity::Unchecked => vec![],
    };
    if proof.tree == TreeProof::Sound {
        proven.push("tree of the database");
    }
    let mut out = format!("  proven: {}", if proven.is_empty() { "nothing".to_owned() } else { proven.join(", ") });
    match &proof.hash_kv {
        HashKvProof::Equal(answer) => {
            out += &format!(", {} as etcd answered it\n", answer_text(answer));
        }
        HashKvProof::NoAnswer(reason) => out += &format!("\n  not compared with etcd's own HashKV: {reason}\n"),
        HashKvProof::Skipped => out += "\n",
    }
    if proof.integrity == Integrity::Unchecked {
        out += "  NOT PROVEN (--skip-hash-check): no SHA-256 of the snapshot was checked\n";
    }
    if proof.tree == TreeProof::Skipped || proof.hash_kv == HashKvProof::Skipped {
        out += "  NOT PROVEN (--skip-proof): the tree of the database and its HashKV were not checked\n";
    }
    out
}

/// An answer in words.
pub(crate) fn answer_text(answer: &HashKvAnswer) -> String {
    format!("HashKV {} up to revision {}", answer.hash, answer.revision)
}

/// An answer as JSON.
pub(crate) fn answer_document(answer: &HashKvAnswer) -> Value {
    json!({"revision": answer.revision.0, "compact_revision": answer.compact_revision.0, "hash": answer.hash})
}

/// A proof as JSON.
pub(crate) fn document(proof: &Proof) -> Value {
    let integrity = match proof.integrity {
        Integrity::Authenticated => "authenticated",
        Integrity::Checksums => "checksums",
        Integrity::Sha256Trailer => "sha256-trailer",
        Integrity::Unchecked => "unchecked",
    };
    let (hash_kv, missing) = match &proof.hash_kv {
        HashKvProof::Equal(answer) => (answer_document(answer), None),
        HashKvProof::NoAnswer(reason) => (Value::Null, Some(reason.as_str())),
        HashKvProof::Skipped => (Value::Null, Some("skipped")),
    };
    json!({
        "integrity": integrity,
        "image_sha256": proof.integrity != Integrity::Unchecked,
        "tree": match proof.tree { TreeProof::Sound => "sound", TreeProof::Skipped => "skipped" },
        "hashkv": hash_kv,
        "hashkv_missing": missing,
        "skipped": proof.tree == TreeProof::Skipped || proof.hash_kv == HashKvProof::Skipped,
    })
}
