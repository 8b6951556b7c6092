//! How much memory a thread holds: the allocator of this binary counts.

#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; this one passes every call on as it came")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

thread_local! {
    /// Bytes that this thread has asked for and not given back; what it frees for others makes it negative.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// Beyond it the thread is out of control.
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// What a thread may hold before it must be stopped, so that it does not take the machine's memory.
const RUNAWAY_BYTES: isize = 1 << 29;

static RUNAWAY: AtomicBool = AtomicBool::new(false);

fn count(bytes: isize) {
    // A thread that ends frees its last when these are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
        if LIMIT.try_with(Cell::get).is_ok_and(|limit| held.get() > limit) {
            RUNAWAY.store(true, Ordering::Relaxed);
        }
    });
}

// SAFETY: every call goes to the system's allocator with the arguments that it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Runs `f`; answers what it answers, and the most bytes that this thread held meanwhile beyond what it held before.
pub(crate) fn peak_of<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    LIMIT.with(|limit| limit.set(before + RUNAWAY_BYTES));
    let result = f();
    LIMIT.with(|limit| limit.set(isize::MAX));
    (result, usize::try_from(PEAK.with(Cell::get) - before).unwrap_or(0))
}

/// Whether a thread within [`peak_of`] holds more than any should, and will not stop by itself.
pub(crate) fn runs_away() -> bool {
    RUNAWAY.load(Ordering::Relaxed)
}
