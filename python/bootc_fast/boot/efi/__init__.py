"""What firmware and signed programs say: variables, PE files, signatures, UKIs."""
