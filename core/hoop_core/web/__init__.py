"""What people and orchestrators use beside the driver protocol: REST under /hoop/v1."""
