-- Asks the worker that holds an order to stop.
update generations set cancel_requested = true
where id = :id and account = :account and worker is not null
returning id
