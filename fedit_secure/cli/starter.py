"""The files that `fedit silo init` and `fedit aggregator init` lay beside the keys."""

from __future__ import annotations

SILO = """\
# One silo. Paths are relative to this file; FEDIT_SECTION__KEY overrides a key.
name: {name}
identity: identity
state: state
charter: charter.json
approval: {name}.approval
policy: policy.yaml

# The base model: a folder, or a hub name. The charter pins its digest.
model: model

data:
  # .json, .jsonl, .csv, .parquet, a folder that `datasets` saved, or a hub name.
  path: records.jsonl
  columns:
    instruction: instruction
    input: input
    response: response
    # person: patient_id   # whom a record is about; a charter per person needs it
  # held_out: {{fraction: 0.1}}   # or {{path: file}}: never tuned on, scored in each round

# passphrase_file: /etc/fedit/passphrase   # of the keys, if they are encrypted
# log_level: info
# threads: 4
# aggregator:
#   address: hub.example.org:7443   # instead of the charter's
"""

POLICY = """\
# What this silo allows. A charter may ask for less, never for more.
epsilon: 8          # the most that this data set may ever cost
delta: 1e-6         # at most 1 / (10 * records), or 1 / (10 * persons)
# epsilon_per_run: 4       # the most that one run may cost, spares included
# windows:                 # the most that any so many days may, by this machine's clock
#   - {days: 90, epsilon: 4}
# hours: {from: "20:00", until: "06:00", zone: Europe/Berlin}   # when tuning may begin
minimum_silos: 3    # fewest updates in a sum
allowed_base_models: any   # or a list of digests
max_local_steps: 1000    # per round
max_lost_charges: 1 # charged rounds without a released sum, per run, before this stops
tell_record_count: true    # or that of the persons, under a charter per person
require_person_unit: false # true: refuse charters that protect single records only
allow_evaluation: false  # true: release a noised figure of what `held_out` names
allow_without_dp: false
allow_pair: false   # in a federation of two, each can subtract itself from the sum
"""

AGGREGATOR = """\
# The aggregator. Paths are relative to this file; FEDIT_SECTION__KEY overrides a key.
identity: identity
state: state
charter: charter.json
approvals: approvals
initial_state: initial-state.bin
listen: 0.0.0.0:7443
# hostnames: [hub.example.org]
# passphrase_file: /etc/fedit/passphrase   # of the keys, if they are encrypted
# health: 127.0.0.1:7444       # grpc.health.v1, in the clear, for a load balancer
# base_model: name-or-folder   # written into the saved adapters, for PEFT to find
# log_level: info
"""
