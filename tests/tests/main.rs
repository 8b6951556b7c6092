//! One binary for everything that is seen from outside: two cores link once.

mod harness;
mod tidy;
