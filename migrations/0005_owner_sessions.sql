-- The owner's session, which the server ends with the owner's process: then nobody need wait for the lease to run out.
ALTER TABLE leases
    ADD COLUMN session_pid integer,
    ADD COLUMN session_start timestamptz;
