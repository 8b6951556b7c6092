//! One binary for everything that is seen from outside: two cores link once.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]
#![allow(clippy::print_stdout, reason = "figures and skips are for the test runner to keep or show")]

mod acceptance_cluster;
mod acceptance_images;
mod acceptance_pairs;
mod acceptance_traps;
mod bad_input;
mod bump;
mod capture;
mod capture_clock;
mod capture_faults;
mod capture_fulls;
mod capture_idle;
mod capture_outage;
mod damage;
mod deploy;
mod disk;
mod dist;
mod doctor;
mod etcd_live;
mod etcd_probes;
mod etcd_source;
mod etcd_watch;
mod export;
mod frozen;
mod full_backup;
mod fuzz;
mod gc;
mod harness;
mod http_source;
mod leader_only;
mod leases;
mod listing;
mod memory;
mod metrics;
mod model;
mod plain_restore;
mod point_in_time;
mod presign;
mod proof;
mod retention;
mod rules;
mod sizes;
mod status;
mod store;
mod store_faults;
mod tidy;
mod trees;
mod upkeep;
mod verify_chains;
mod watch_faults;
