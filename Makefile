# The commands of this repository. Everything they need beyond Rust, Go and Python they install themselves.

.PHONY: demo test lint dist measure bench fuzz soak

demo: ## a real etcd backed up, destroyed, restored and compared
	@scripts/demo.sh

test: ## every test, with real etcds and a real MinIO
	@scripts/test.sh

lint: ## formatting and lints, as the CI runs them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

dist: ## a static binary in dist/
	@scripts/dist.sh

measure: ## memory, writes and time for a database of SIZE bytes (2 GB)
	@scripts/measure.sh

bench: ## backup and restore beside etcd's own tools, with a database of SIZE bytes (1 GB)
	@scripts/bench.sh

fuzz: ## broken input for every reader, each for FUZZ_SECONDS (60)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --workspace --test all fuzz:: -- --nocapture --test-threads=1

soak: ## SOAK_HISTORIES (100) random histories, half of them with kills and store faults; for SOAK_SECONDS (60) each, two sidecars, and three whose leaders are killed
	@scripts/tools.sh cc protoc etcd-3.4 etcd-3.5 etcd-3.6 etcd-3.7
	SOAK_HISTORIES=$${SOAK_HISTORIES:-100} SOAK_SECONDS=$${SOAK_SECONDS:-60} cargo test --workspace --test all -- model::soak leader_only::soak --nocapture --test-threads=1
