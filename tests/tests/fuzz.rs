//! Bytes that nobody wrote on purpose, for everything that reads bytes of others.
//!
//! A target must answer every input, with a value or an error: no panic, no memory out of proportion, no end of time.
//! What it opens must be consistent; each target says what that means. A short run of each is part of the tests; with
//! `FUZZ_SECONDS` each runs so long (`make fuzz`). An input that fails is kept in `tests/testdata/fuzz/<target>` and is
//! the first to be tried from then on.

mod answers;
mod driver;
mod etcd_files;
mod heap;
mod mutate;
mod page_file;
mod stored;

use driver::Target;

#[test]
fn header() {
    Target::new("header", stored::headers(), stored::header).run();
}

#[test]
fn name() {
    Target::new("name", stored::names(), stored::name).run();
}

#[test]
fn frame() {
    Target::new("frame", stored::frames(), stored::frame).mended_by(stored::mend_frame).run();
}

#[test]
fn chunk() {
    Target::new("chunk", stored::chunks(), stored::chunk).run();
}

#[test]
fn footer() {
    Target::new("footer", stored::footers(), stored::footer).run();
}

#[test]
fn page_file() {
    Target::new("page_file", page_file::seeds(), page_file::target).mended_by(page_file::mend).run();
}

#[test]
fn wal() {
    Target::new("wal", etcd_files::wals(), etcd_files::wal).mended_by(etcd_files::mend_wal).run();
}

#[test]
fn snap() {
    Target::new("snap", etcd_files::snaps(), etcd_files::snap).mended_by(etcd_files::mend_snap).run();
}

#[test]
fn range_answer() {
    Target::new("range_answer", answers::seeds(), answers::target).run();
}

// --- and the driver can fail ------------------------------------------------------------------------------------------

#[test]
fn a_panic_is_found() {
    let target = |input: &[u8]| match input.iter().position(|byte| *byte == 0x77) {
        Some(at) => panic!("it is at {at}"),
        None => String::new(),
    };
    let fault = Target::new("panic", vec![vec![0; 64]], target).find().expect("it is found");
    assert!(fault.input.contains(&0x77) && fault.what.contains("it is at"), "{}", fault.what);
}

#[test]
fn memory_out_of_proportion_is_found() {
    let target = |input: &[u8]| {
        let asked = input.iter().map(|byte| usize::from(*byte)).sum::<usize>() << 16;
        format!("{}", Vec::<u8>::with_capacity(asked).capacity() / (1 << 20))
    };
    let fault = Target::new("memory", vec![vec![0; 64]], target).find().expect("it is found");
    assert!(fault.what.contains("bytes of memory"), "{}", fault.what);
}

#[test]
fn a_loop_is_found() {
    let target = |input: &[u8]| {
        while input.contains(&0x77) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        String::new()
    };
    let short = std::time::Duration::from_millis(200);
    let fault = Target::new("loop", vec![vec![0; 64]], target).patience(short).find().expect("it is found");
    assert!(fault.input.contains(&0x77) && fault.what.contains("no answer"), "{}", fault.what);
}

#[test]
fn answers_lead_to_what_is_behind_them() {
    // Four bytes in a row, each of which is only asked for behind the one before: by chance alone, one of 2^32.
    let target = |input: &[u8]| {
        let found = b"deep".iter().zip(input).take_while(|(wanted, found)| wanted == found).count();
        assert!(found < 4, "found");
        "x".repeat(found)
    };
    let fault = Target::new("deep", vec![vec![0; 4]], target).find().expect("it is found");
    assert_eq!(&fault.input[..4], b"deep");
}
