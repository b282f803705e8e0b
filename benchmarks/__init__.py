"""How fast encdec is beside what its users would write otherwise; see docs/performance.md."""
