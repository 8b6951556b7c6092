//! One binary for everything that is seen from outside: two cores link once.

mod etcd_live;
mod etcd_source;
mod harness;
mod store;
mod tidy;
