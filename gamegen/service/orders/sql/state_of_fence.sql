-- The state of an order that has not been claimed again.
select state from generations where id = :id and fence = :fence
