//! Our own format: names, headers, frames, footers.

use std::collections::BTreeMap;

use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::format::{
    BackupName, CaptureFacts, ChunkHistory, Codec, FRAME_HEADER_BYTES, FooterFacts, FrameHeader, FrameRole,
    HashKvAnswer, HashKvAsked, HistoryDigest, KeyId, Kind, LeaseGrant, LeaseList, LeaseTtl, LineageId, NameKind,
    ObjectHeader, ObjectNonce, Protection, RawFooter, RecordsDecoder, RecordsEncoder, RolledUp, Rollup, Salt, Seam,
    SeamProof, Source, TAG_BYTES, TRAILER_BYTES, TimeMark, Told, Trailer, frame_aad, frame_nonce,
};
use etcdbr_engine::pipeline::{CompressionLevel, Opener, Protector, Sealer};
use etcdbr_engine::record::{Change, Record, RecordRef};
use etcdbr_engine::revision::{ClusterId, MemberId, Revision};
use etcdbr_engine::secret::SecretKey;
use etcdbr_proto::etcdbr::v1::ObjectFooter;
use prost::Message;
use sha2::{Digest, Sha256};

const CHUNK_BYTES: u32 = 1 << 20;
const FRAME_NUMBER: u32 = 3;
/// Where frames begin in the object of a fuzzed footer.
const FIRST_FRAME: u64 = 200;

fn lineage() -> LineageId {
    "1763724000000-00000000cafe0001-0badf00d".parse().unwrap()
}

fn header_of(kind: Kind, protection: Protection, codec: Codec) -> ObjectHeader {
    ObjectHeader {
        kind,
        lineage: lineage(),
        nonce: ObjectNonce([9; 8]),
        created: UnixMillis(1_763_724_000_123),
        revision_floor: Revision(42),
        protection,
        codec,
        chunk_bytes: CHUNK_BYTES,
    }
}

fn backup_name(kind: NameKind) -> BackupName {
    BackupName { lineage: lineage(), kind, created: UnixMillis(1_763_724_000_123), nonce: ObjectNonce([9; 8]) }
}

fn full_name() -> BackupName {
    backup_name(NameKind::Full { seam: Revision(42) })
}

fn delta_name() -> BackupName {
    backup_name(NameKind::Delta { last: Revision(99), first: Revision(42) })
}

const ENCRYPTED: Protection = Protection::Aes256Gcm { key_id: KeyId([1; 8]), salt: Salt([2; 32]) };

// --- names ---

pub(crate) fn names() -> Vec<Vec<u8>> {
    [full_name().to_string(), delta_name().to_string(), lineage().to_string()].map(String::into_bytes).into()
}

/// What is a name is spelled as we would spell it.
pub(crate) fn name(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    if let Ok(lineage) = text.parse::<LineageId>() {
        assert_eq!(lineage.to_string(), text);
    }
    match text.parse::<BackupName>() {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            format!("{:?}", std::mem::discriminant(&name.kind))
        }
        // It repeats the text.
        Err(error) => format!("{:?}", error.kind()),
    }
}

// --- headers ---

pub(crate) fn headers() -> Vec<Vec<u8>> {
    let full = header_of(Kind::Full, ENCRYPTED, Codec::Zstd);
    let delta = header_of(Kind::Delta, Protection::Checksum, Codec::Stored);
    [full, delta].map(|header| header.encode().bytes).into()
}

/// What is a header is the bytes that it was read from, and says the same when it is written again.
pub(crate) fn header(input: &[u8]) -> String {
    let _ = ObjectHeader::stored_bytes(input);
    match ObjectHeader::decode(input) {
        Ok((header, encoded)) => {
            assert_eq!(encoded.bytes, input[..ObjectHeader::stored_bytes(input).unwrap()]);
            assert_eq!(encoded.sha256[..], Sha256::digest(&encoded.bytes)[..]);
            let again = ObjectHeader::decode(&header.encode().bytes).unwrap().0;
            assert_eq!(again, header);
            format!("{:?} {:?}", header.kind, header.codec)
        }
        // Behind a colon it repeats what it has read.
        Err(error) => error.to_string().split(':').next().unwrap_or_default().to_owned(),
    }
}

// --- frames: a byte that chooses codec and key, and the frame ---

struct Choice {
    level: CompressionLevel,
    key: Option<SecretKey>,
}

impl Choice {
    fn of(byte: u8) -> Self {
        let level = if byte & 1 == 0 { CompressionLevel::None } else { CompressionLevel::Zstd(1) };
        Self { level, key: (byte & 2 != 0).then(|| SecretKey::new([5; 32])) }
    }

    fn header(&self) -> ObjectHeader {
        let protection = if self.key.is_some() { ENCRYPTED } else { Protection::Checksum };
        header_of(Kind::Full, protection, self.level.codec())
    }

    fn protector(&self) -> Protector {
        Protector::new(&self.header().encode(), self.key.as_ref())
    }
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for byte in 0..4 {
        let choice = Choice::of(byte);
        let sealer = Sealer::new(choice.protector(), choice.level);
        for plain in [&b"x"[..], &[7; 5_000], &(0..=255).cycle().take(2_000).collect::<Vec<u8>>()] {
            let mut frame = Vec::new();
            sealer.chunk(FRAME_NUMBER, plain, &mut frame).unwrap();
            frame.insert(0, byte);
            frames.push(frame);
        }
    }
    frames
}

/// What opens is as long as its header says, and no longer than a chunk may be.
pub(crate) fn frame(input: &[u8]) -> String {
    let Some((choice, frame)) = input.split_first() else { return String::new() };
    let choice = Choice::of(*choice);
    let opener = Opener::new(choice.protector(), choice.level.codec());
    let mut plain = Vec::new();
    let _ = opener.footer(FRAME_NUMBER, "name", frame, CHUNK_BYTES as usize, &mut plain);
    match opener.chunk(FRAME_NUMBER, frame, CHUNK_BYTES as usize, &mut plain) {
        Ok(()) => {
            let (header, ..) = FrameHeader::split(frame, FRAME_NUMBER, FrameRole::Chunk).unwrap();
            assert_eq!(plain.len(), header.plain_bytes as usize);
            assert!(plain.len() <= CHUNK_BYTES as usize);
            format!("opened, {} bits", (plain.len() + 1).ilog2())
        }
        // What zstd says is its own branch of the code.
        Err(error) => format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

/// Gives a frame without encryption the number, length and checksum that belong to it.
pub(crate) fn mend_frame(mut input: Vec<u8>) -> Vec<u8> {
    let Some((choice, frame)) = input.split_first_mut() else { return input };
    let Some(payload_bytes) = frame.len().checked_sub(FRAME_HEADER_BYTES + TAG_BYTES) else { return input };
    let plain_bytes = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]);
    let (number, role) = (FRAME_NUMBER, FrameRole::Chunk);
    let header = FrameHeader { number, payload_bytes: payload_bytes as u32, plain_bytes, role };
    frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    let aad = frame_aad(&Choice::of(*choice).header().encode().sha256, &header, None);
    let (sealed, tag) = frame.split_at_mut(FRAME_HEADER_BYTES + payload_bytes);
    let digest = Sha256::new()
        .chain_update(frame_nonce(&header))
        .chain_update((aad.len() as u64).to_le_bytes())
        .chain_update(&aad)
        .chain_update(&sealed[FRAME_HEADER_BYTES..])
        .finalize();
    tag.copy_from_slice(&digest[..TAG_BYTES]);
    input
}

// --- the records of a delta's chunk ---

pub(crate) fn chunks() -> Vec<Vec<u8>> {
    let mut encoder = RecordsEncoder::default();
    for (main, sub) in [(42, 0), (42, 1), (43, 0), (1 << 40, 0), (1 << 40, 300)] {
        let change = if sub == 1 { Change::Tombstone } else { Change::Put };
        encoder.push(&RecordRef { main: Revision(main), sub, change, value: &[7; 20][..(main % 20) as usize] });
    }
    vec![encoder.take(Vec::new()), Vec::new()]
}

/// What is a chunk is the same bytes when it is written again.
pub(crate) fn chunk(input: &[u8]) -> String {
    let mut encoder = RecordsEncoder::default();
    let mut records = 0;
    for record in RecordsDecoder::new(input) {
        match record {
            Ok(record) => encoder.push(&record),
            Err(error) => return format!("{error} {}", "r".repeat(records)),
        }
        records += 1;
    }
    assert_eq!(encoder.take(Vec::new()), input);
    "r".repeat(records)
}

// --- footers, as their frame opens, and trailers ---

fn facts() -> FooterFacts {
    let record = |sub, change| Record { main: Revision(42), sub, change, value: vec![8; 30].into() };
    FooterFacts {
        plain_sha256: [1; 32],
        revisions: (Revision(42), Revision(42)),
        seam: Some(Seam {
            revision: Revision(42),
            records: vec![record(0, Change::Put), record(1, Change::Tombstone)],
            proof: SeamProof::Proven,
        }),
        hash_kv: vec![HashKvAnswer {
            revision: Revision(42),
            compact_revision: Revision(7),
            hash: 77,
            duration_ms: 30,
        }],
        source: Source {
            cluster: ClusterId(1),
            member: MemberId(2),
            member_name: "m0".to_owned(),
            endpoint: "http://127.0.0.1:2379".to_owned(),
            etcd_version: "3.6.0".to_owned(),
            raft_term: 3,
            raft_index: 900,
            db_bytes: 1 << 20,
            db_bytes_in_use: 1 << 19,
        },
        history: (HistoryDigest([2; 32]), HistoryDigest([3; 32])),
        capture: CaptureFacts { compact_revision: Some(Revision(7)), ..CaptureFacts::default() },
        labels: BTreeMap::from([("owner".to_owned(), "me".to_owned())]),
        tool_version: "0.1.0".to_owned(),
        started: UnixMillis(1),
        finished: UnixMillis(2),
    }
}

fn delta_facts() -> FooterFacts {
    let mark = |time, revision| TimeMark { time: UnixMillis(time), revision: Revision(revision) };
    let lease = |id, known| LeaseGrant { id, ttl_s: 600, known };
    let ends = |revision, digest| ChunkHistory { revision: Revision(revision), digest: HistoryDigest([digest; 32]) };
    let part = |first, last| RolledUp {
        revisions: (Revision(first), Revision(last)),
        created: UnixMillis(1_763_724_000_000),
        nonce: ObjectNonce([first as u8; 8]),
        history: (HistoryDigest([4; 32]), HistoryDigest([3; 32])),
    };
    let told = |time, revision, lease_list| Told {
        mark: mark(time, revision),
        leases: vec![lease(time, LeaseTtl::Granted)],
        lease_list,
        compact_revision: Some(Revision(43)),
    };
    let rollup = Rollup {
        parts: vec![part(42, 70), part(71, 99)],
        told: vec![told(1, 42, LeaseList::New), told(2, 99, LeaseList::Complete)],
    };
    FooterFacts {
        revisions: (Revision(42), Revision(99)),
        seam: None,
        hash_kv: Vec::new(),
        capture: CaptureFacts {
            time_marks: vec![mark(1_763_724_000_000, 50), mark(1_763_724_001_000, 99)],
            leases: vec![lease(-5, LeaseTtl::Granted), lease(77, LeaseTtl::Assumed)],
            lease_list: LeaseList::Complete,
            compact_revision: Some(Revision(44)),
            chunk_history: vec![ends(70, 4), ends(99, 3)],
            auth_state: vec![1, 2, 3],
            hash_kv_asked: Some(HashKvAsked { at: UnixMillis(1_763_724_000_000), took_ms: 77 }),
            rollup: Some(rollup),
        },
        ..facts()
    }
}

pub(crate) fn footers() -> Vec<Vec<u8>> {
    let unproven = Seam { revision: Revision(42), records: Vec::new(), proof: SeamProof::Unproven };
    let bare = FooterFacts { seam: Some(unproven), hash_kv: Vec::new(), labels: BTreeMap::new(), ..facts() };
    vec![
        facts().encode(vec![1000, 1001, 64], vec![CHUNK_BYTES, CHUNK_BYTES, 5]),
        delta_facts().encode(vec![900, 64], vec![CHUNK_BYTES, 5]),
        bare.encode(vec![40], vec![8]),
        bare.encode(vec![], vec![]),
        Trailer { footer_frame_bytes: 400 }.encode().to_vec(),
    ]
}

/// What is a footer accounts for its object: chunks follow each other, and their sizes add up. It says the same when it
/// is written again.
pub(crate) fn footer(input: &[u8]) -> String {
    let trailer = Trailer::decode(input).map(|trailer| trailer.encode().to_vec());
    assert!(trailer.is_err() || trailer.is_ok_and(|bytes| input[input.len() - TRAILER_BYTES..] == bytes));
    // As in an object that is as long as its footer says; of another length it is refused at once.
    let frames = ObjectFooter::decode(input).map(|footer| footer.frame_bytes).unwrap_or_default();
    let footer_start = FIRST_FRAME + frames.iter().copied().map(u64::from).sum::<u64>();
    let kinds = [(Kind::Full, full_name()), (Kind::Delta, delta_name())];
    let answers = kinds.map(|(kind, name)| footer_of(input, kind, &name, footer_start));
    answers.join(" / ")
}

fn footer_of(input: &[u8], kind: Kind, name: &BackupName, footer_start: u64) -> String {
    let header = header_of(kind, Protection::Checksum, Codec::Zstd);
    let read = |bytes: &[u8], end| RawFooter::decode(bytes)?.check(&header, name, FIRST_FRAME, end);
    let footer = match read(input, footer_start) {
        Ok(footer) => footer,
        Err(error) => return error.to_string(),
    };
    assert!(read(input, footer_start + 1).is_err(), "an object of another length");
    let mut end = FIRST_FRAME;
    for chunk in &footer.chunks {
        assert_eq!(chunk.stored_start, end);
        assert!(chunk.plain_bytes <= CHUNK_BYTES);
        end += u64::from(chunk.stored_bytes);
    }
    assert_eq!(end, footer_start);
    let sizes = footer.chunks.iter().map(|chunk| (chunk.stored_bytes, chunk.plain_bytes)).unzip();
    let again = footer.facts.encode(sizes.0, sizes.1);
    assert_eq!(read(&again, footer_start).unwrap(), footer);
    format!("{} answers, {} labels", footer.facts.hash_kv.len().min(2), footer.facts.labels.len().min(2))
}
