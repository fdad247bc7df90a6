//! The functions of `csrc/process_group.cpp`.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    pub(super) fn b4_store_new(
        host: *const c_char,
        port: *mut u16,
        serves: bool,
        timeout_ms: i64,
        store: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_store_prefix(
        store: *const c_void,
        prefix: *const c_char,
        result: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_store_drop(store: *mut c_void);
    pub(super) fn b4_store_set(
        store: *const c_void,
        key: *const c_char,
        value: *const u8,
        count: usize,
    ) -> *mut c_char;
    pub(super) fn b4_store_get(
        store: *const c_void,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *mut u8,
        count: *mut usize,
    ) -> *mut c_char;
    pub(super) fn b4_store_check(
        store: *const c_void,
        key: *const c_char,
        found: *mut bool,
    ) -> *mut c_char;
    pub(super) fn b4_store_add(
        store: *const c_void,
        key: *const c_char,
        amount: i64,
        sum: *mut i64,
    ) -> *mut c_char;
    pub(super) fn b4_group_new(
        store: *const c_void,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        timeout_ms: i64,
        checks: bool,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_group_drop(group: *mut c_void);
    pub(super) fn b4_all_reduce(
        group: *const c_void,
        tensor: *const c_void,
        op: c_int,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_broadcast(
        group: *const c_void,
        tensor: *const c_void,
        root: c_int,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_all_gather(
        group: *const c_void,
        output: *const c_void,
        input: *const c_void,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_all_to_all(
        group: *const c_void,
        output: *const c_void,
        input: *const c_void,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn b4_monitored_barrier(group: *const c_void, timeout_ms: i64) -> *mut c_char;
    pub(super) fn b4_work_wait(work: *const c_void) -> *mut c_char;
    pub(super) fn b4_work_is_completed(work: *const c_void, completed: *mut bool) -> *mut c_char;
    pub(super) fn b4_work_drop(work: *mut c_void);
}
