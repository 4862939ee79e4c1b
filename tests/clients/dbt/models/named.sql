select s.*, r.name as region
from {{ ref('spend') }} s cross join {{ ref('regions') }} r
