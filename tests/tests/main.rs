//! One integration binary: each promise is a module.

mod etcd_source;
