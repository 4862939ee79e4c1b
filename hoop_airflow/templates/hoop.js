// Airflow's frames open no windows. The page around it may: it is of the same origin.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  window.parent.open(link.href, "_blank", "noopener,noreferrer");
});
