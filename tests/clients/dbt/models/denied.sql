select * from {{ source('hr', 'SALARIES') }}
