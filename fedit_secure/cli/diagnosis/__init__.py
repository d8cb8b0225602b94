"""What `fedit doctor` looks at."""
