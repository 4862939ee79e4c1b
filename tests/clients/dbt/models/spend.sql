-- {{ this }}: one row for each of the first hundred customers
select c.customer_id, c.email, c.ssn, sum(o.amount) as spent
from {{ source('crm', 'CUSTOMERS') }} c
join {{ source('crm', 'ORDERS') }} o on o.customer_id = c.customer_id
where c.customer_id <= 100
group by 1, 2, 3
